"""An encoder as one ONNX graph of standard operators (opset 23), from text to embedding.

Inputs, with B texts of S tokens, shorter ones filled up on the right:

- `input_ids`: int64 `[B, S]`
- `attention_mask`: int64 `[B, S]`, 1 where there is a token and 0 where it is filled up
- `token_type_ids`: int64 `[B, S]`, 0 for a single text; absent if the model has no segments

Output: `embeddings`, float32 `[B, hidden]`, pooled and, if the model does so, of length 1.
Every text has at least one token.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from fungible.artifacts.encoder_checkpoint import POSITIONS, QKV, SEGMENTS, WORDS
from fungible.artifacts.encoder_config import FEWEST, INPUTS, MASKED, SHORTEST
from fungible.artifacts.graph import GraphWriter
from fungible.artifacts.model_config import EncoderConfig, ModelConfig
from fungible.artifacts.tensors import Region


def build_encoder_graph(
    config: ModelConfig,
    encoder: EncoderConfig,
    regions: Mapping[str, Region],
    weights_file: str,
) -> ModelProto:
    """The model.

    Args:
        config: The model's shape.
        encoder: What else an encoder has.
        regions: Where each tensor of `encoder_layout` is in the weights file.
        weights_file: The safetensors file's name beside the graph.
    """
    writer = _Writer(GraphWriter(weights_file), config, encoder, regions)
    x = writer.embed()
    for layer in range(config.layers):
        x = writer.attention(x, layer)
        x = writer.feed_forward(x, layer)
    writer.pool(x)
    names = INPUTS if encoder.token_types else INPUTS[:2]
    inputs: list[ValueInfoProto] = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"]) for name in names
    ]
    shape = ["B", config.hidden]
    output = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, shape)
    return writer.graph.model(config.family, inputs, [output])


class _Writer:
    """The layers; x is float32 `[B·S, hidden]` between them."""

    def __init__(
        self,
        graph: GraphWriter,
        config: ModelConfig,
        encoder: EncoderConfig,
        regions: Mapping[str, Region],
    ) -> None:
        self.graph = graph
        self.config = config
        self.encoder = encoder
        self._regions = regions
        batch = graph.op("Shape", "input_ids", start=0, end=1)
        self._length = graph.op("Shape", "input_ids", start=1, end=2)

        def shape(*parts: str | int) -> str:
            tensors = [part if isinstance(part, str) else graph.const([part]) for part in parts]
            return graph.op("Concat", *tensors, axis=0)

        self._flat = graph.const([-1, config.hidden])
        self._tokens = shape(batch, self._length, config.hidden)
        self._heads = shape(batch, self._length, config.heads, config.head_dim)
        self._thirds = graph.const([config.hidden] * 3)
        self._weights = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        seen, hidden = graph.const(np.float32(0)), graph.const(MASKED)
        mask = graph.op("Cast", "attention_mask", to=TensorProto.BOOL)
        bias = graph.op("Where", mask, seen, hidden)
        self._bias = graph.op("Unsqueeze", bias, graph.const([1, 2]))

    def embed(self) -> str:
        """Token, position and segment, summed and normalised."""
        graph = self.graph
        rows = graph.op("Gather", self._tensor(WORDS), "input_ids", axis=0)
        start = graph.const([0])
        positions = graph.op("Slice", self._tensor(POSITIONS), start, self._length, start)
        if self.encoder.token_types:
            segments = graph.op("Gather", self._tensor(SEGMENTS), "token_type_ids", axis=0)
            rows = graph.op("Add", rows, segments)
        x = graph.op("Reshape", graph.op("Add", rows, positions), self._flat)
        return self._normalise(x, "embeddings.LayerNorm")

    def attention(self, x: str, layer: int) -> str:
        """Every token looks at every token of its text; plus x, normalised."""
        graph = self.graph
        joined = self._linear(x, layer, QKV)
        q, k, v = graph.split(joined, 3, self._thirds)
        q = self._per_head(graph.op("Mul", q, graph.const(np.float32(self.config.score_scale))))
        k, v = self._per_head(k, perm=[0, 2, 3, 1]), self._per_head(v)
        scores = graph.op("Add", graph.op("MatMul", q, k), self._bias)
        mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
        mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = graph.op("Reshape", mixed, self._flat)
        mixed = self._linear(mixed, layer, ("attention.output.dense",))
        name = f"encoder.layer.{layer}.attention.output.LayerNorm"
        return self._normalise(graph.op("Add", mixed, x), name)

    def feed_forward(self, x: str, layer: int) -> str:
        """Two products with the activation between them; plus x, normalised."""
        graph = self.graph
        inner = self._linear(x, layer, ("intermediate.dense",))
        if self.encoder.activation == "relu":
            inner = graph.op("Relu", inner)
        else:
            exact = self.encoder.activation == "gelu"
            inner = graph.op("Gelu", inner, approximate="none" if exact else "tanh")
        outer = self._linear(inner, layer, ("output.dense",))
        return self._normalise(graph.op("Add", outer, x), f"encoder.layer.{layer}.output.LayerNorm")

    def pool(self, x: str) -> None:
        """One vector per text: the output."""
        graph, encoder = self.graph, self.encoder
        x = graph.op("Reshape", x, self._tokens)
        if encoder.pooling == "cls":
            pooled = graph.op("Gather", x, graph.const(np.int64(0)), axis=1)
        else:
            weights = graph.op("Unsqueeze", self._weights, graph.const([-1]))
            along = graph.const([1])
            total = graph.op("ReduceSum", graph.op("Mul", x, weights), along, keepdims=0)
            count = graph.op("ReduceSum", weights, along, keepdims=0)
            count = graph.op("Max", count, graph.const(FEWEST))
            pooled = graph.op("Div", total, count)
        if encoder.normalise:
            length = graph.op("ReduceL2", pooled, graph.const([-1]), keepdims=1)
            length = graph.op("Max", length, graph.const(SHORTEST))
            graph.op("Div", pooled, length, output="embeddings")
        else:
            graph.op("Identity", pooled, output="embeddings")

    def _tensor(self, name: str) -> str:
        return self.graph.external(name, [self._regions[name]])

    def _normalise(self, x: str, name: str) -> str:
        """LayerNorm (Ba et al., 2016)."""
        weight, bias = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        options: dict[str, Any] = {"axis": -1, "epsilon": self.config.norm_eps}
        return self.graph.op("LayerNormalization", x, weight, bias, **options)

    def _linear(self, x: str, layer: int, parts: tuple[str, ...]) -> str:
        """Product of x `[N, in]` and the transposed weights, stacked, plus the biases."""

        def stacked(kind: str) -> str:
            names = [f"encoder.layer.{layer}.{part}.{kind}" for part in parts]
            name = names[0] if len(names) == 1 else f"{names[0]}+{len(names) - 1}"
            return self.graph.external(name, [self._regions[one] for one in names])

        return self.graph.op("Gemm", x, stacked("weight"), stacked("bias"), transB=1)

    def _per_head(self, x: str, perm: tuple[int, ...] | list[int] = (0, 2, 1, 3)) -> str:
        """`[B·S, hidden]` -> `[B, heads, S, head_dim]`, or as `perm` has it."""
        return self.graph.op("Transpose", self.graph.op("Reshape", x, self._heads), perm=list(perm))
