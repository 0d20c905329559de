"""Read and write safetensors files, one tensor in memory at a time.

The format: 8 bytes little-endian header length, a JSON header of name -> {dtype, shape,
data_offsets}, then the tensors' bytes without gaps (safetensors specification, 2022). We need
the absolute offset of each tensor, because the ONNX graphs point into these files.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.manifest import FileEntry
from fungible.errors import ArtifactError

_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I64": 8}
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "I64": "<i8"}
_MAX_HEADER = 100_000_000
# safetensors' name of a type -> that of StableHLO programs, which is also numpy's.
PROGRAM_TYPES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I8": "int8",
    "U8": "uint8",
}


class TensorSpec(msgspec.Struct, frozen=True):
    """Type (`F32`, `I8`, `U8` …) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * _SIZES[self.dtype]


class Region(msgspec.Struct, frozen=True):
    """Where a tensor's bytes are: from `offset` (absolute) for `length`."""

    spec: TensorSpec
    offset: int
    length: int


class TensorWriter:
    """Writes a file whose tensors are known beforehand, in their order.

    The digest is computed on the way; `regions` says where each tensor will be.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        ends = 0
        for name, spec in specs.items():
            span = [ends, ends + spec.nbytes()]
            header[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": span}
            ends = span[1]
        text = msgspec.json.encode(header)
        # Tensors start at a multiple of 64 so that a mapped file can be used in place.
        text += b" " * (-(len(text) + 8) % 64)
        self.path = path
        self.regions = {
            name: Region(spec, 8 + len(text) + header[name]["data_offsets"][0], spec.nbytes())
            for name, spec in specs.items()
        }
        self._rest = list(specs)[::-1]
        self._digest = hashlib.sha256()
        self._size = 0
        self._file = path.open("wb")
        self._write(len(text).to_bytes(8, "little") + text)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Write the next tensor; `array` must have the shape and type announced for `name`."""
        expected = self._rest.pop()
        spec = self.regions[expected].spec
        if name != expected or array.shape != spec.shape or array.nbytes != spec.nbytes():
            raise ValueError(
                f"{self.path}: got {name} {array.dtype}{array.shape}, expected {expected} {spec}"
            )
        self._write(np.ascontiguousarray(array).data.cast("B"))

    def finish(self) -> FileEntry:
        """Close the file and return its digest."""
        if self._rest:
            raise ValueError(f"{self.path}: {self._rest[-1]} was never written")
        self._file.close()
        return FileEntry(sha256=self._digest.hexdigest(), size=self._size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        self._file.close()


class TensorFile:
    """A safetensors file, mapped; tensors are read one by one.

    Raises:
        ArtifactError: The file is malformed or shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                head = file.read(8)
                length = int.from_bytes(head, "little")
                if len(head) < 8 or length > _MAX_HEADER:
                    raise ArtifactError(f"{path}: not a safetensors file")
                header = msgspec.json.decode(file.read(length), type=dict[str, Any])
            size = path.stat().st_size
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{path}: the safetensors header is broken: {error}") from error
        self.regions = {
            name: _region(path, name, entry, 8 + length, size)
            for name, entry in header.items()
            if name != "__metadata__"
        }

    def read(self, name: str) -> NDArray[Any]:
        """The tensor as stored, copied into memory; BF16 comes as float32."""
        region = self.regions[name]
        count = int(np.prod(region.spec.shape, dtype=np.int64))
        stored = np.fromfile(
            self.path, dtype=_DTYPES[region.spec.dtype], count=count, offset=region.offset
        )
        if region.spec.dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.reshape(region.spec.shape)


def _region(path: Path, name: str, entry: Any, base: int, size: int) -> Region:  # noqa: ANN401
    try:
        spec = TensorSpec(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
        start, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: the entry of tensor {name} is malformed") from error
    if spec.dtype not in _SIZES:
        raise ArtifactError(
            f"{path}: tensor {name} has type {spec.dtype}", hint=f"known types: {', '.join(_SIZES)}"
        )
    if end - start != spec.nbytes() or base + end > size or start < 0:
        raise ArtifactError(
            f"{path}: tensor {name} is cut off or has the wrong length",
            hint="the file is damaged or incomplete: download it again",
        )
    return Region(spec, base + start, end - start)
