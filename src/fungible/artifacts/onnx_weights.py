"""How each variant's graph multiplies with its weights."""

from collections.abc import Mapping

from onnx import TensorProto

from fungible.artifacts.checkpoint import EMBEDDING, LM_HEAD, layer_tensor
from fungible.artifacts.graph import GraphWriter
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.quantize import SCHEMES, Scheme, block_of, group_name
from fungible.artifacts.tensors import Region


class FloatWeights:
    """Floating-point in Hugging Face layout `[out, in]`; `Gemm` transposes: one copy is enough.

    Matrices of two bytes are cast to float32, in which every product is computed; runtimes do
    that once, when they load the graph.
    """

    def __init__(self, config: ModelConfig, regions: Mapping[str, Region]) -> None:
        self._head = EMBEDDING if config.tied_embeddings else LM_HEAD
        self._regions = regions

    def embed(self, graph: GraphWriter, ids: str) -> str:
        """See `Weights.embed`."""
        rows = graph.op(
            "Gather", graph.external(EMBEDDING, [self._regions[EMBEDDING]]), ids, axis=0
        )
        return self._opened(graph, rows, EMBEDDING)

    def norm(self, graph: GraphWriter, name: str) -> str:
        """See `Weights.norm`."""
        return self._opened(graph, graph.external(name, [self._regions[name]]), name)

    def linear(self, graph: GraphWriter, x: str, layer: int, parts: tuple[str, ...]) -> str:
        """See `Weights.linear`; neighbours in the file are used as one matrix."""
        names = [layer_tensor(layer, part) for part in parts]
        regions = [self._regions[name] for name in names]
        weight = graph.external(group_name(layer, parts), regions)
        return graph.op("Gemm", x, self._opened(graph, weight, names[0]), transB=1)

    def head(self, graph: GraphWriter, x: str, output: str) -> str:
        """See `Weights.head`."""
        return graph.op("Gemm", x, self.norm(graph, self._head), transB=1, output=output)

    def _opened(self, graph: GraphWriter, value: str, name: str) -> str:
        """`value`, stored as the tensor `name` is, in float32."""
        if self._regions[name].spec.dtype == "F32":
            return value
        return graph.op("Cast", value, to=TensorProto.FLOAT)


class QuantisedWeights:
    """Blocks that `DequantizeLinear` opens; runtimes fuse it into the product."""

    def __init__(self, config: ModelConfig, scheme: Scheme, regions: Mapping[str, Region]) -> None:
        self._config = config
        self._scheme = scheme
        self._regions = regions

    def norm(self, graph: GraphWriter, name: str) -> str:
        """See `Weights.norm`."""
        return graph.external(name, [self._regions[name]])

    def embed(self, graph: GraphWriter, ids: str) -> str:
        """See `Weights.embed`: gather bytes and scales, then dequantise only those rows."""
        rows = graph.op("Gather", self.norm(graph, EMBEDDING), ids, axis=0)
        scale = graph.op("Gather", self.norm(graph, f"{EMBEDDING}.scale"), ids, axis=0)
        block = block_of(SCHEMES["int8"], self._config.hidden)
        # Not DequantizeLinear: OpenVINO opens blocks of constants only.
        blocks = graph.op("Reshape", rows, graph.const([0, 0, -1, block]))
        factors = graph.op("Unsqueeze", scale, graph.const([-1]))
        opened = graph.op("Mul", graph.op("Cast", blocks, to=TensorProto.FLOAT), factors)
        return graph.op("Reshape", opened, graph.const([0, 0, self._config.hidden]))

    def linear(self, graph: GraphWriter, x: str, layer: int, parts: tuple[str, ...]) -> str:
        """See `Weights.linear`."""
        name = group_name(layer, parts)
        product = self._product(graph, x, name, self._scheme.bits)
        if not self._scheme.shift:
            return product
        # W = s·q + c per block, so x·Wᵀ = x·(s·q)ᵀ + (sums of x over blocks)·cᵀ.
        blocks = self._regions[f"{name}.shift"].spec.shape[0]
        in_blocks = graph.op("Reshape", x, graph.const([-1, blocks, self._scheme.block]))
        sums = graph.op("ReduceSum", in_blocks, graph.const([2]), keepdims=0)
        return graph.op("Gemm", sums, self.norm(graph, f"{name}.shift"), product)

    def head(self, graph: GraphWriter, x: str, output: str) -> str:
        """See `Weights.head`: a copy of its own, as a table that is also gathered is not fused."""
        return self._product(graph, x, LM_HEAD, self._scheme.head_bits, output)

    def _product(self, graph: GraphWriter, x: str, name: str, bits: int, output: str = "") -> str:
        region, scale = self._regions[name], self._regions[f"{name}.scale"]
        blocks, rows = scale.spec.shape
        width = region.length * 8 // bits // rows
        quantised = (
            graph.external_int4(name, region, (width, rows))
            if bits == 4
            else graph.external(name, [region])
        )
        weight = graph.op(
            "DequantizeLinear",
            quantised,
            self.norm(graph, f"{name}.scale"),
            axis=0,
            block_size=width // blocks,
        )
        return graph.op("MatMul", x, weight, output=output)
