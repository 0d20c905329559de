"""4-bit weights in the layout of ONNX Runtime's `MatMulNBits`: the file and the nodes.

Matrices stay `[out, in]`, cut into blocks along `in`; values are stored without sign, around 8
in 4 bits and around 128 in 8. The kernel takes whole numbers as zero points only, which decides
how a block that is not centred is kept:

- Weights that the checkpoint holds in 4 bits have a shift that is no whole number. They are kept
  bit for bit, and the shift is a second, small product, as in the portable graph. Rounding it
  away would be a second lossy quantisation.
- Other weights are quantised here for the first time, with a whole zero point: one product.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

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


class BlockWeights:
    """How the graph multiplies with the blocks; see `onnx_graph.Weights`.

    Attributes:
        flat: `linear` needs its input as `[B·S, in]`; otherwise `[B, S, in]` will do.
    """

    def __init__(self, config: ModelConfig, regions: Mapping[str, Region]) -> None:
        self._config = config
        self._regions = regions
        # `Gemm` adds the shift, and takes matrices only.
        self.flat = any(name.endswith(".shift") for name in regions)

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
        """Product of x `[…, in]` and the transposed, stacked weights: `[…, sum of out]`."""
        name = group_name(layer, parts)
        product = self._product(graph, x, name, 4)
        if f"{name}.shift" not in self._regions:
            return product
        # W = s·q + c per block, so x·Wᵀ = x·(s·q)ᵀ + (sums of x over blocks)·cᵀ.
        blocks = self._regions[f"{name}.shift"].spec.shape[0]
        in_blocks = graph.op("Reshape", x, graph.const([-1, blocks, _SCHEME.block]))
        sums = graph.op("ReduceSum", in_blocks, graph.const([2]), keepdims=0)
        return graph.op("Gemm", sums, self.norm(graph, f"{name}.shift"), product)

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


def _specs(name: str, rows: int, width: int, bits: int, block: int) -> dict[str, TensorSpec]:
    blocks = width // block
    return {
        name: TensorSpec("U8", (rows, blocks, block * bits // 8)),
        f"{name}.scale": TensorSpec("F32", (rows, blocks)),
    }


def _beside(checkpoint: Checkpoint, layer: int, parts: tuple[str, ...]) -> str:
    """What a group keeps beside its values and scales: `shift`, `zero`, or nothing."""
    stored = [checkpoint.blocks4(layer_tensor(layer, part)) for part in parts]
    if all(blocks is None for blocks in stored):
        return "zero"
    centred = all(blocks is not None and not blocks.shift.any() for blocks in stored)
    return "" if centred else "shift"


def _layout(checkpoint: Checkpoint) -> dict[str, TensorSpec]:
    """Every tensor of the file, in its order."""
    config = checkpoint.config
    table = _specs(EMBEDDING, config.vocab, config.hidden, 8, block_of(_SCHEME, config.hidden))
    specs = dict(table)
    for layer in range(config.layers):
        for parts in GROUPS:
            rows, width = group_shape(config, parts)
            name, block = group_name(layer, parts), block_of(_SCHEME, width)
            blocks = width // block
            specs |= _specs(name, rows, width, 4, block)
            beside = _beside(checkpoint, layer, parts)
            if beside == "shift":
                specs[f"{name}.shift"] = TensorSpec("F32", (blocks, rows))
            elif beside == "zero":
                specs[f"{name}.zero"] = TensorSpec("U8", (rows, -(-blocks // 2)))
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
    name = group_name(layer, parts)
    if f"{name}.zero" in writer.regions:
        values = np.concatenate([read(layer_tensor(layer, part)) for part in parts])
        q, scale, zero = whole_zero4(values, block_of(_SCHEME, values.shape[1]))
        _add_values(writer, name, q, scale)
        writer.add(f"{name}.zero", _pack_rows4(zero))
        return
    matrix = quantise_group(checkpoint, read, layer, parts, _SCHEME)
    _add_values(writer, name, matrix.q + np.int8(8), matrix.scale)
    if matrix.shift is not None and f"{name}.shift" in writer.regions:
        writer.add(f"{name}.shift", np.ascontiguousarray(matrix.shift.T))


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


def _pack_rows4(zero: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two zero points per byte, each row filled up to whole bytes."""
    filled = np.pad(zero, ((0, 0), (0, zero.shape[1] % 2)))
    return pack4(filled).reshape(len(zero), -1)
