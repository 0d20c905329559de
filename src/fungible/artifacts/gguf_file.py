"""The GGUF container: metadata, and where each tensor is (ggml's `docs/gguf.md`, versions 2, 3).

Read here rather than with the `gguf` library because every length in a damaged file must be
checked before it is used, and errors must name the key or tensor.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from fungible.errors import ArtifactError

_DAMAGED = "the file is damaged or incomplete: download it again"
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_PLAIN = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2"}


class GGUFTensor(msgspec.Struct, frozen=True):
    """One tensor: its type, its shape (slowest dimension first) and where its bytes are."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    length: int


class _Cursor:
    """A position in a file; every step checks that the file goes that far."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0
        self.what = "the header"

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ArtifactError(f"{self.path}: the file ends inside {self.what}", hint=_DAMAGED)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:  # noqa: ANN401  # a scalar of the format's type
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        try:
            return self.take(self.number("<Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError(
                f"{self.path}: {self.what} is not UTF-8 text", hint=_DAMAGED
            ) from error

    def value(self, kind: int) -> Any:  # noqa: ANN401  # whatever the file holds
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            return self._array(inner, count)
        if kind not in _SCALARS:
            raise ArtifactError(f"{self.path}: {self.what} has unknown type {kind}", hint=_DAMAGED)
        return self.number(_SCALARS[kind])

    def _array(self, kind: int, count: int) -> list[Any]:
        smallest = 8 if kind == _STRING else struct.calcsize(_SCALARS.get(kind, "<Q"))
        if count * smallest > len(self.data) - self.at:
            raise ArtifactError(f"{self.path}: the file ends inside {self.what}", hint=_DAMAGED)
        if kind in _SCALARS:
            form = f"<{count}{_SCALARS[kind][1]}"
            return list(struct.unpack(form, self.take(struct.calcsize(form))))
        return [self.value(kind) for _ in range(count)]


class GGUFFile:
    """An open GGUF file: `metadata` by key and `tensors` by name.

    Raises:
        ArtifactError: The file is not GGUF, is cut off, or its header makes no sense.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:  # an empty file cannot be mapped
            raise ArtifactError(f"{path}: the file is empty", hint=_DAMAGED) from error
        cursor = _Cursor(path, self._data)
        if cursor.take(4) != b"GGUF":
            raise ArtifactError(f"{path}: not a GGUF file (no GGUF magic)")
        version = cursor.number("<I")
        if version not in (2, 3):
            raise ArtifactError(f"{path}: GGUF version {version} is not known", hint="known: 2, 3")
        tensor_count, key_count = cursor.number("<Q"), cursor.number("<Q")
        self.metadata: dict[str, Any] = {}
        for index in range(key_count):
            cursor.what = f"metadata entry {index + 1} of {key_count}"
            key = cursor.string()
            cursor.what = f"metadata {key!r}"
            self.metadata[key] = cursor.value(cursor.number("<I"))
        infos = [self._tensor_info(cursor, index, tensor_count) for index in range(tensor_count)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ArtifactError(f"{path}: general.alignment is {alignment!r}", hint=_DAMAGED)
        start = -(-cursor.at // alignment) * alignment
        self.tensors = {
            name: msgspec.structs.replace(info, offset=start + info.offset) for name, info in infos
        }
        for name, info in self.tensors.items():
            if info.offset + info.length > len(self._data):
                raise ArtifactError(f"{path}: the file ends inside tensor {name}", hint=_DAMAGED)

    def _tensor_info(self, cursor: _Cursor, index: int, count: int) -> tuple[str, GGUFTensor]:
        cursor.what = f"the description of tensor {index + 1} of {count}"
        name = cursor.string()
        dimensions = cursor.number("<I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ArtifactError(
                f"{self.path}: tensor {name} has {dimensions} dimensions", hint=_DAMAGED
            )
        shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        try:
            known = GGMLQuantizationType(kind)
        except ValueError as error:
            raise ArtifactError(
                f"{self.path}: tensor {name} has unknown type {kind}", hint=_DAMAGED
            ) from error
        block, size = GGML_QUANT_SIZES[known]
        elements = 1
        for length in shape:
            elements *= length
        if shape[-1] % block:
            raise ArtifactError(
                f"{self.path}: tensor {name}: rows of {shape[-1]} do not divide into blocks "
                f"of {block}",
                hint=_DAMAGED,
            )
        return name, GGUFTensor(known, shape, offset, elements * size // block)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes as stored, `[rows, bytes per row]`; a view into the file."""
        info = self.tensors[name]
        view = np.frombuffer(self._data, dtype=np.uint8, count=info.length, offset=info.offset)
        return view.reshape(-1, info.length * info.shape[-1] // max(1, int(np.prod(info.shape))))

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor in float32, dequantised where it is quantised.

        Raises:
            ArtifactError: Its type cannot be dequantised.
        """
        info = self.tensors[name]
        raw = self.raw(name)
        if info.kind in _PLAIN:
            return raw.view(_PLAIN[info.kind]).astype(np.float32).reshape(info.shape)
        try:
            values: NDArray[np.float32] = dequantize(raw, info.kind)
        except NotImplementedError as error:
            raise ArtifactError(
                f"{self.path}: tensor {name} is stored as {info.kind.name}, which cannot be read",
                hint="convert the model to F16, Q8_0 or Q4_1",
            ) from error
        return values.reshape(info.shape)
