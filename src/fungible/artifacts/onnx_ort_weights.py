"""4-bit weights in the layout of ONNX Runtime's `MatMulNBits`: the file and the nodes.

Matrices stay `[out, in]`, cut into blocks along `in`; values are stored without sign, around 8
in 4 bits and around 128 in 8. The kernel takes whole numbers as zero points only, which decides
how a block that is not centred is kept:

- Weights that the checkpoint holds in 4 bits have a shift that is no whole number of steps. Their
  values and scales are kept bit for bit; the whole part of the shift is the zero point. What is
  left, r, is at most half a step, and is multiplied with the sums of x over blocks. The product
  does that itself: x is made longer by the sums, and rows by r in more columns. Rounding r away
  would be a second lossy quantisation.
- Other weights are quantised here for the first time, with a whole zero point: one product.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from fungible.artifacts.checkpoint import (
    EMBEDDING,
    FINAL_NORM,
    LM_HEAD,
    Checkpoint,
    layer_tensor,
    layer_vectors,
)
from fungible.artifacts.graph import GraphWriter
from fungible.artifacts.manifest import FileEntry
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.quantize import (
    GROUPS,
    SCHEMES,
    block_of,
    group_name,
    group_shape,
    pack4,
    quantise_group,
    symmetric,
)
from fungible.artifacts.tensors import Region, TensorSpec, TensorWriter

DOMAIN = "com.microsoft"
_SCHEME = SCHEMES["int4"]
# Activations are rounded to 8 bits inside the product.
_ACCURACY = 4
# What is left of a shift is written as so many 4-bit numbers, each with a finer scale.
_PLACES = 2
# Elements of a matrix that sums x over blocks; a larger one would take longer than it saves.
_LARGEST_SUMMING = 1 << 17


class BlockWeights:
    """How the graph multiplies with the blocks; see `onnx_graph.Weights`."""

    def __init__(self, config: ModelConfig, regions: Mapping[str, Region]) -> None:
        self._config = config
        self._regions = regions
        self._summing: dict[int, str] = {}

    def norm(self, graph: GraphWriter, name: str) -> str:
        """A tensor of the file as it is stored."""
        return graph.external(name, [self._regions[name]])

    def embed(self, graph: GraphWriter, ids: str) -> str:
        """Float32 `[B, S, hidden]`: gather rows of blocks, then open those only."""
        rows = graph.op("Gather", self.norm(graph, EMBEDDING), ids, axis=0)
        scale = graph.op("Gather", self.norm(graph, f"{EMBEDDING}.scale"), ids, axis=0)
        values = graph.op("Cast", rows, to=TensorProto.FLOAT)
        centred = graph.op("Sub", values, graph.const(np.float32(128)))
        opened = graph.op("Mul", centred, graph.op("Unsqueeze", scale, graph.const([-1])))
        return graph.op("Reshape", opened, graph.const([0, 0, self._config.hidden]))

    def linear(self, graph: GraphWriter, x: str, layer: int, parts: tuple[str, ...]) -> str:
        """Product of x `[B, S, in]` and the transposed, stacked weights: `[B, S, sum of out]`."""
        name = group_name(layer, parts)
        _, width = group_shape(self._config, parts)
        if self._width(name, 4) > width:
            x = graph.op("Concat", x, *[self._sums(graph, x, width)] * _PLACES, axis=-1)
        return self._product(graph, x, name, 4)

    def _sums(self, graph: GraphWriter, x: str, width: int) -> str:
        """Of x over its blocks: `[B, S, _sum_columns(width)]`."""
        blocks, columns = width // _SCHEME.block, _sum_columns(width)
        if width * columns <= _LARGEST_SUMMING:
            # One node, where a step is so short that nodes count.
            if width not in self._summing:
                ones = np.repeat(np.eye(blocks, columns, dtype=np.float32), _SCHEME.block, axis=0)
                self._summing[width] = graph.const(ones, f"summing.{width}")
            return graph.op("MatMul", x, self._summing[width])
        in_blocks = graph.op("Reshape", x, graph.const([0, 0, -1, _SCHEME.block]))
        sums = graph.op("ReduceSum", in_blocks, graph.const([3]), keepdims=0)
        if columns == blocks:
            return sums
        return graph.op("Pad", sums, graph.const([0, 0, 0, 0, 0, columns - blocks]))

    def head(self, graph: GraphWriter, x: str, output: str) -> str:
        """Logits of x `[N, hidden]`; a tied head is the embedding's own tensor."""
        name = EMBEDDING if self._config.tied_embeddings else LM_HEAD
        return self._product(graph, x, name, 8, output)

    def _product(self, graph: GraphWriter, x: str, name: str, bits: int, output: str = "") -> str:
        rows, blocks, stored = self._regions[name].spec.shape
        block = stored * 8 // bits
        parts = [name, f"{name}.scale", f"{name}.zero"]
        return graph.op(
            "MatMulNBits",
            x,
            *(self.norm(graph, part) for part in parts if part in self._regions),
            output=output,
            domain=DOMAIN,
            K=blocks * block,
            N=rows,
            bits=bits,
            block_size=block,
            accuracy_level=_ACCURACY,
        )

    def _width(self, name: str, bits: int) -> int:
        """Columns of a stored matrix."""
        _, blocks, stored = self._regions[name].spec.shape
        return blocks * stored * 8 // bits


def _sum_columns(width: int) -> int:
    """Blocks in rows of `width`, filled up so that they fill whole blocks themselves."""
    block = _SCHEME.block
    return -(-width // block // block) * block


def _specs(name: str, rows: int, width: int, bits: int, block: int) -> dict[str, TensorSpec]:
    blocks = width // block
    return {
        name: TensorSpec("U8", (rows, blocks, block * bits // 8)),
        f"{name}.scale": TensorSpec("F32", (rows, blocks)),
    }


def _kept(
    checkpoint: Checkpoint, layer: int, parts: tuple[str, ...]
) -> Literal["floats", "centred", "shifted"]:
    """What a group is in the checkpoint: floats, or 4-bit blocks with or without a shift."""
    stored = [checkpoint.blocks4(layer_tensor(layer, part)) for part in parts]
    if all(blocks is None for blocks in stored):
        return "floats"
    centred = all(blocks is not None and not blocks.shift.any() for blocks in stored)
    return "centred" if centred else "shifted"


def _layout(checkpoint: Checkpoint) -> dict[str, TensorSpec]:
    """Every tensor of the file, in its order."""
    config = checkpoint.config
    table = _specs(EMBEDDING, config.vocab, config.hidden, 8, block_of(_SCHEME, config.hidden))
    specs = dict(table)
    for layer in range(config.layers):
        for parts in GROUPS:
            rows, width = group_shape(config, parts)
            name, block = group_name(layer, parts), block_of(_SCHEME, width)
            kept = _kept(checkpoint, layer, parts)
            width += _PLACES * _sum_columns(width) if kept == "shifted" else 0
            specs |= _specs(name, rows, width, 4, block)
            if kept != "centred":
                specs[f"{name}.zero"] = TensorSpec("U8", (rows, -(-width // block // 2)))
        vectors = layer_vectors(config, layer)
        specs |= {name: TensorSpec("F32", shape) for name, shape in vectors.items()}
    specs[FINAL_NORM] = TensorSpec("F32", (config.hidden,))
    if not config.tied_embeddings:
        specs |= {name.replace(EMBEDDING, LM_HEAD): spec for name, spec in table.items()}
    return specs


def write_blocks(
    checkpoint: Checkpoint,
    read: Callable[[str], NDArray[np.float32]],
    path: Path,
    progress: Callable[[int, int], None],
) -> tuple[FileEntry, dict[str, Region]]:
    """Write the variant's safetensors file; arguments and result as of `write_quantised`."""
    config = checkpoint.config
    with TensorWriter(path, _layout(checkpoint)) as writer:
        _add_table(writer, EMBEDDING, read(EMBEDDING))
        for layer in range(config.layers):
            progress(layer, config.layers)
            for parts in GROUPS:
                _add_group(writer, checkpoint, read, layer, parts)
            for name in layer_vectors(config, layer):
                writer.add(name, read(name))
        writer.add(FINAL_NORM, read(FINAL_NORM))
        if not config.tied_embeddings:
            _add_table(writer, LM_HEAD, read(LM_HEAD))
        return writer.finish(), writer.regions


def _add_table(writer: TensorWriter, name: str, values: NDArray[np.float32]) -> None:
    table = symmetric(values, 8, block_of(_SCHEME, values.shape[1]))
    rows, blocks = table.scale.shape
    writer.add(name, (table.q.view(np.uint8) ^ np.uint8(128)).reshape(rows, blocks, -1))
    writer.add(f"{name}.scale", table.scale)


def _add_group(
    writer: TensorWriter,
    checkpoint: Checkpoint,
    read: Callable[[str], NDArray[np.float32]],
    layer: int,
    parts: tuple[str, ...],
) -> None:
    name, kept = group_name(layer, parts), _kept(checkpoint, layer, parts)
    if kept == "floats":
        values = np.concatenate([read(layer_tensor(layer, part)) for part in parts])
        q, scale, zero = whole_zero4(values, block_of(_SCHEME, values.shape[1]))
    else:
        matrix = quantise_group(checkpoint, read, layer, parts, _SCHEME)
        q, scale, zero = matrix.q + np.int8(8), matrix.scale, None
        if matrix.shift is not None and kept == "shifted":
            q, scale, zero = shifted4(q, scale, matrix.shift)
    _add_values(writer, name, q, scale)
    if zero is not None:
        writer.add(f"{name}.zero", _pack_rows4(zero))


def _add_values(
    writer: TensorWriter, name: str, q: NDArray[np.int8], scale: NDArray[np.float32]
) -> None:
    writer.add(name, pack4(q).reshape(*scale.shape, -1))
    writer.add(f"{name}.scale", scale)


def whole_zero4(
    values: NDArray[np.float32], block: int
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8]]:
    """Spread 16 levels over each block so that zero is one of them: W = scale·(q − zero).

    Args:
        values: Float32 `[out, in]`.
        block: Neighbours along `in` that share a scale and a zero point.

    Returns:
        Values in 0 … 15, int8 `[out, in]`; scales, float32 `[out, in / block]`; zero points in
        0 … 15, int8 like the scales.
    """
    blocks = values.reshape(len(values), -1, block)
    low = np.minimum(blocks.min(axis=-1), 0)
    scale = (np.maximum(blocks.max(axis=-1), 0) - low) / np.float32(15)
    divisor = np.where(scale == 0, np.float32(1), scale)
    zero = np.rint(-low / divisor)
    q = np.clip(np.rint(blocks / divisor[..., None]) + zero[..., None], 0, 15)
    return q.astype(np.int8).reshape(values.shape), scale, zero.astype(np.int8)


def shifted4(
    q: NDArray[np.int8], scale: NDArray[np.float32], shift: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8]]:
    """Rows W = scale·(q − 8) + shift as rows with whole zero points and what they leave.

    Args:
        q: Values 0 … 15, int8 `[out, in]`.
        scale: Float32 `[out, in / block]`.
        shift: Float32 like `scale`.

    Returns:
        As `whole_zero4`, with `_PLACES` times `_sum_columns(in)` columns added at the end, to be
        multiplied with the sums of the input over its blocks.
    """
    divisor = np.where(scale == 0, np.float32(1), scale)
    zero = np.where(scale == 0, 8, np.clip(np.rint(8 - shift / divisor), 0, 15))
    left = shift - scale * (8 - zero).astype(np.float32)
    left = np.pad(left, ((0, 0), (0, _sum_columns(q.shape[1]) - left.shape[1])))
    places = []
    for _ in range(_PLACES):
        place = symmetric(left, 4, _SCHEME.block)
        left = left - np.repeat(place.scale, _SCHEME.block, axis=1) * place.q
        places.append(place)
    around = np.full_like(places[0].scale, 8)
    return (
        np.concatenate([q, *(place.q + np.int8(8) for place in places)], axis=1),
        np.concatenate([scale, *(place.scale for place in places)], axis=1),
        np.concatenate([zero, *[around] * _PLACES], axis=1).astype(np.int8),
    )


def _pack_rows4(zero: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two zero points per byte, each row filled up to whole bytes."""
    filled = np.pad(zero, ((0, 0), (0, zero.shape[1] % 2)))
    return pack4(filled).reshape(len(zero), -1)
