"""Weights in fewer bits: the arithmetic and the files; `onnx_weights` uses them.

Linear weights are stored transposed, `[in, out]`, with one scale per block of consecutive
inputs: the layout that ONNX `DequantizeLinear` with `block_size` and `axis=0` expects, and
the one that ONNX Runtime turns into a fused integer product.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.checkpoint import (
    EMBEDDING,
    FINAL_NORM,
    GATE_UP,
    LM_HEAD,
    QKV,
    Blocks4,
    Checkpoint,
    layer_tensor,
    layer_vectors,
)
from fungible.artifacts.manifest import FileEntry
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.tensors import Region, TensorSpec, TensorWriter
from fungible.errors import ArtifactError

BLOCK = 32
GROUPS = (QKV, ("self_attn.o_proj",), GATE_UP, ("mlp.down_proj",))


class Scheme(msgspec.Struct, frozen=True, kw_only=True):
    """How a variant stores its matrices.

    Attributes:
        bits: Of the layers' linear weights.
        block: Inputs that share a scale; halved until it divides the row.
        shift: Blocks have an additive term as well, so that they need not be centred.
        head_bits: Of the output head. The embedding table always has 8.
    """

    words: str
    bits: int
    block: int
    shift: bool
    head_bits: int


SCHEMES = {
    "int8": Scheme(
        words="8-bit weights and head, symmetric, blocks of 32",
        bits=8,
        block=BLOCK,
        shift=False,
        head_bits=8,
    ),
    "int4": Scheme(
        words="4-bit weights with scale and shift, blocks of 32; 8-bit head",
        bits=4,
        block=BLOCK,
        shift=True,
        head_bits=8,
    ),
    "int4-naive": Scheme(
        words="4-bit weights and head, symmetric round-to-nearest, blocks of up to 128",
        bits=4,
        block=128,
        shift=False,
        head_bits=4,
    ),
}


class Quantised(msgspec.Struct, frozen=True):
    """A matrix W `[out, in]`: W = scale·q + shift per block along `in`.

    Attributes:
        q: int8 `[out, in]`; 4-bit values are in −8 … 7.
        scale: float32 `[out, in / block]`.
        shift: float32 like `scale`, or `None`.
    """

    q: NDArray[np.int8]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32] | None = None


def symmetric(values: NDArray[np.float32], bits: int, block: int) -> Quantised:
    """Round to nearest around zero; the largest magnitude of a block is exact."""
    blocks = values.reshape(len(values), -1, block)
    top = 2 ** (bits - 1) - 1
    scale = np.abs(blocks).max(axis=-1) / np.float32(top)
    divisor = np.where(scale == 0, np.float32(1), scale)[..., None]
    q = np.clip(np.rint(blocks / divisor), -top, top).astype(np.int8)
    return Quantised(q.reshape(values.shape), scale)


def min_max4(values: NDArray[np.float32], block: int) -> Quantised:
    """Spread 16 levels from the smallest to the largest value of each block."""
    blocks = values.reshape(len(values), -1, block)
    low = blocks.min(axis=-1)
    scale = (blocks.max(axis=-1) - low) / np.float32(15)
    divisor = np.where(scale == 0, np.float32(1), scale)[..., None]
    q = np.clip(np.rint((blocks - low[..., None]) / divisor), 0, 15).astype(np.int8) - np.int8(8)
    return Quantised(q.reshape(values.shape), scale, low + 8 * scale)


def stored_blocks(blocks: Blocks4) -> Quantised:
    """4-bit blocks of a checkpoint, kept bit for bit."""
    return Quantised(blocks.q.astype(np.int8) - np.int8(8), blocks.scale, blocks.shift)


def block_of(scheme: Scheme, width: int) -> int:
    """The scheme's block, halved until it divides `width`.

    Raises:
        ArtifactError: Not even 16 does.
    """
    block = scheme.block
    while width % block:
        block //= 2
    if block < 16:
        raise ArtifactError(
            f"rows of {width} weights cannot be cut into blocks of at least 16",
            hint="build the f32 variant only",
        )
    return block


def pack4(q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two values per byte in reading order, the first in the low four bits; one dimension."""
    pairs = (q.view(np.uint8) & np.uint8(0x0F)).reshape(-1, 2)
    packed: NDArray[np.uint8] = pairs[:, 0] | (pairs[:, 1] << np.uint8(4))
    return packed


def group_name(layer: int, parts: tuple[str, ...]) -> str:
    """The name of several weights of a layer used as one matrix."""
    return layer_tensor(layer, parts[0] if len(parts) == 1 else "+".join(parts))


def _matrix_specs(
    name: str, rows: int, width: int, bits: int, block: int, *, shift: bool
) -> dict[str, TensorSpec]:
    stored = (
        TensorSpec("I8", (width, rows)) if bits == 8 else TensorSpec("U8", (width * rows // 2,))
    )
    specs = {name: stored, f"{name}.scale": TensorSpec("F32", (width // block, rows))}
    if shift:
        specs[f"{name}.shift"] = TensorSpec("F32", (width // block, rows))
    return specs


def layout(config: ModelConfig, scheme: Scheme) -> dict[str, TensorSpec]:
    """Every tensor of the variant's safetensors file, in file order."""
    hidden = config.hidden
    table_block = block_of(SCHEMES["int8"], hidden)
    specs = {
        EMBEDDING: TensorSpec("I8", (config.vocab, hidden)),
        f"{EMBEDDING}.scale": TensorSpec("F32", (config.vocab, hidden // table_block)),
    }
    for layer in range(config.layers):
        for parts in GROUPS:
            rows, width = group_shape(config, parts)
            specs |= _matrix_specs(
                group_name(layer, parts),
                rows,
                width,
                scheme.bits,
                block_of(scheme, width),
                shift=scheme.shift,
            )
        vectors = layer_vectors(config, layer)
        specs |= {name: TensorSpec("F32", shape) for name, shape in vectors.items()}
    specs[FINAL_NORM] = TensorSpec("F32", (hidden,))
    head_block = block_of(scheme, hidden)
    bits = scheme.head_bits
    return specs | _matrix_specs(LM_HEAD, config.vocab, hidden, bits, head_block, shift=False)


def group_shape(config: ModelConfig, parts: tuple[str, ...]) -> tuple[int, int]:
    """Rows and width of `group_name`'s matrix, for `parts` of `GROUPS`."""
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes = {
        QKV: (q_rows + 2 * kv_rows, config.hidden),
        GROUPS[1]: (config.hidden, q_rows),
        GATE_UP: (2 * config.intermediate, config.hidden),
        GROUPS[3]: (config.hidden, config.intermediate),
    }
    return shapes[parts]


def write_quantised(
    checkpoint: Checkpoint,
    read: Callable[[str], NDArray[np.float32]],
    scheme: Scheme,
    path: Path,
    progress: Callable[[int, int], None],
) -> tuple[FileEntry, dict[str, Region]]:
    """Write a variant's safetensors file; its digest and where each tensor is.

    Args:
        checkpoint: Source of 4-bit blocks where it has them.
        read: The float32 tensor by name.
        scheme: How matrices are stored.
        path: The file.
        progress: Called with (layers done, layers).
    """
    config = checkpoint.config
    with TensorWriter(path, layout(config, scheme)) as writer:
        table = read(EMBEDDING)
        embedding = symmetric(table, 8, block_of(SCHEMES["int8"], config.hidden))
        writer.add(EMBEDDING, embedding.q)
        writer.add(f"{EMBEDDING}.scale", embedding.scale)
        for layer in range(config.layers):
            progress(layer, config.layers)
            for parts in GROUPS:
                matrix = quantise_group(checkpoint, read, layer, parts, scheme)
                _add_matrix(writer, group_name(layer, parts), matrix, scheme.bits)
            for name in layer_vectors(config, layer):
                writer.add(name, read(name))
        writer.add(FINAL_NORM, read(FINAL_NORM))
        if not config.tied_embeddings:
            table = read(LM_HEAD)
        head = symmetric(table, scheme.head_bits, block_of(scheme, config.hidden))
        _add_matrix(writer, LM_HEAD, head, scheme.head_bits)
        return writer.finish(), writer.regions


def quantise_group(
    checkpoint: Checkpoint,
    read: Callable[[str], NDArray[np.float32]],
    layer: int,
    parts: tuple[str, ...],
    scheme: Scheme,
) -> Quantised:
    """Several weights of a layer as one matrix, stacked along its rows; see `write_quantised`."""
    names = [layer_tensor(layer, part) for part in parts]
    return _stack([_quantise(checkpoint, read, name, scheme) for name in names])


def _quantise(
    checkpoint: Checkpoint,
    read: Callable[[str], NDArray[np.float32]],
    name: str,
    scheme: Scheme,
) -> Quantised:
    if not scheme.shift:
        values = read(name)
        return symmetric(values, scheme.bits, block_of(scheme, values.shape[1]))
    blocks = checkpoint.blocks4(name)
    return stored_blocks(blocks) if blocks is not None else min_max4(read(name), scheme.block)


def _stack(parts: list[Quantised]) -> Quantised:
    shifts = [part.shift for part in parts if part.shift is not None]
    return Quantised(
        np.concatenate([part.q for part in parts]),
        np.concatenate([part.scale for part in parts]),
        np.concatenate(shifts) if shifts else None,
    )


def _add_matrix(writer: TensorWriter, name: str, matrix: Quantised, bits: int) -> None:
    q: NDArray[Any] = np.ascontiguousarray(matrix.q.T)
    writer.add(name, q if bits == 8 else pack4(q))
    writer.add(f"{name}.scale", np.ascontiguousarray(matrix.scale.T))
    if matrix.shift is not None:
        writer.add(f"{name}.shift", np.ascontiguousarray(matrix.shift.T))
