"""A GGUF file as a checkpoint: llama.cpp's names and row order -> Hugging Face's."""

import re
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from fungible.artifacts.checkpoint import Blocks4, check_config
from fungible.artifacts.gguf_config import ROTARY_TENSORS, find_architecture, read_config
from fungible.artifacts.gguf_file import GGUFFile
from fungible.artifacts.gguf_names import stored_tensors
from fungible.artifacts.tokenizer_export import tokenizer_from_gguf
from fungible.errors import ArtifactError

_QUANT_SUFFIX = re.compile(r"[.-](f32|f16|bf16|i?q\d\w*)$", re.IGNORECASE)


class GGUFCheckpoint:
    """A checkpoint in one GGUF file, of one of `gguf_config.ARCHITECTURES`.

    Raises:
        ArtifactError: The file is damaged, of another architecture or tokenizer, or lacks a tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = [path]
        self._file = GGUFFile(path)
        keys = self._file.metadata
        self.config = read_config(self._file)
        check_config(self.config, str(path))
        self._architecture = find_architecture(keys, str(path))
        self._parts, shapes = stored_tensors(self.config, self._architecture)
        self._check_tensors(shapes)
        self.name = _QUANT_SUFFIX.sub("", path.stem).lower()
        self.licence = str(keys.get("general.license", "unknown"))
        self.tokenizer_json = tokenizer_from_gguf(keys, str(path), self.config.vocab)
        self.chat_template = str(keys.get("tokenizer.chat_template", ""))

    def _check_tensors(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for stored, expected in shapes.items():
            if stored not in self._file.tensors:
                raise ArtifactError(f"{self.path}: tensor {stored} is missing")
            shape = self._file.tensors[stored].shape
            if shape != expected:
                raise ArtifactError(
                    f"{self.path}: tensor {stored} has shape {list(shape)}, "
                    f"expected {list(expected)}"
                )
        extra = sorted(set(self._file.tensors) - set(shapes) - ROTARY_TENSORS)
        if extra:
            raise ArtifactError(
                f"{self.path}: tensor {extra[0]} is not part of a plain {self._architecture} model",
                hint="other biases, adapters and experts are not supported by this version",
            )

    def _order(self, tensor: str) -> NDArray[np.int64] | slice:
        """The rows of the stored tensor that are the model's, in its order."""
        part = self._parts[tensor]
        heads = {"q_proj": self.config.heads, "k_proj": self.config.kv_heads}
        of = heads.get(tensor.split(".")[-2], 0)
        if self._architecture == "llama" and of:
            return _half_split_rows(part.last, of)
        return slice(part.first, part.last)

    def read(self, tensor: str) -> NDArray[np.float32]:
        """See `Checkpoint.read`."""
        stored = self._parts[tensor].name
        values = self._file.read(stored)[self._order(tensor)]
        if not np.isfinite(values).all():
            raise ArtifactError(f"{self.path}: tensor {stored} is not finite")
        if self.config.norm_offset and tensor.endswith("norm.weight"):
            # llama.cpp stores what the norm multiplies by; Hugging Face its distance from 1.
            return values - np.float32(1)
        return values

    def blocks4(self, tensor: str) -> Blocks4 | None:
        """See `Checkpoint.blocks4`; Q4_1 and Q4_0 are such blocks."""
        stored = self._parts[tensor].name
        kind = self._file.tensors[stored].kind
        if kind not in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1):
            return None
        blocks = _unpack_blocks(self._file.raw(stored), kind)
        rows = self._order(tensor)
        return Blocks4(blocks.q[rows], blocks.scale[rows], blocks.shift[rows])


def _half_split_rows(rows: int, heads: int) -> NDArray[np.int64]:
    """Row order that undoes llama.cpp's permutation of query and key weights.

    llama.cpp interleaves the two halves of each head so that rotary pairs are neighbours
    (`convert_hf_to_gguf.py`, `LlamaModel.permute`); Hugging Face keeps halves apart.
    """
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(rows)


def _unpack_blocks(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> Blocks4:
    """Blocks of 32 4-bit values as ggml packs them: half-precision scale, minimum, 16 bytes.

    Byte i holds element i in its low and element i + 16 in its high four bits.
    """
    with_minimum = kind == GGMLQuantizationType.Q4_1
    head = 4 if with_minimum else 2
    blocks = raw.reshape(len(raw), -1, head + 16)
    halves = np.ascontiguousarray(blocks[:, :, :head]).view("<f2").astype(np.float32)
    packed = blocks[:, :, head:]
    q = np.concatenate([packed & 0x0F, packed >> 4], axis=-1).reshape(len(raw), -1)
    scale = halves[:, :, 0]
    # Q4_1 is d·q + m = d·(q − 8) + (8·d + m); Q4_0 is d·(q − 8).
    shift = 8 * scale + halves[:, :, 1] if with_minimum else np.zeros_like(scale)
    return Blocks4(q, scale, shift)
