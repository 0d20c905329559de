"""The Llama decoder as one ONNX graph of standard operators (opset 23).

Inputs, with B sequences, S new tokens each, P cached positions, T = P + S:

- `input_ids`, `position_ids`: int64 `[B, S]`
- `attention_mask`: bool `[B, 1, S, T]`, true where a token may look
- `logits_index`: int64 `[N]`, rows of the flattened `[B·S]` tokens whose logits are wanted
- `past_key.L`, `past_value.L`: float32 `[B, kv_heads, P, head_dim]`, keys already rotated

Outputs: `logits` float32 `[N, vocab]`, and `new_key.L`, `new_value.L` float32
`[B, kv_heads, S, head_dim]`: only what is new, so that a runtime can keep its own cache.

Attention is written as two products, one with the cache and one with the new tokens, joined
before the softmax. The standard `Attention` operator would copy the whole cache at each step.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from fungible.artifacts.checkpoint import FINAL_NORM, GATE_UP, QKV, layer_tensor
from fungible.artifacts.graph import GraphWriter
from fungible.artifacts.model_config import ModelConfig


class Weights(Protocol):
    """How a variant multiplies with its weights."""

    def embed(self, graph: GraphWriter, ids: str) -> str:
        """Rows of the embedding table: int64 `[B, S]` -> float32 `[B, S, hidden]`."""
        ...

    def norm(self, graph: GraphWriter, name: str) -> str:
        """A normalisation weight `[hidden]`."""
        ...

    def linear(self, graph: GraphWriter, x: str, layer: int, parts: tuple[str, ...]) -> str:
        """Product of x `[N, in]` and the transposed weights, stacked: `[N, sum of out]`."""
        ...

    def head(self, graph: GraphWriter, x: str, output: str) -> str:
        """Logits of x: `[N, hidden]` -> `[N, vocab]`."""
        ...


class _Shapes:
    """Shape tensors that every layer uses, computed once per run."""

    def __init__(self, graph: GraphWriter, config: ModelConfig) -> None:
        heads, kv, dim = config.heads, config.kv_heads, config.head_dim
        batch = graph.op("Shape", "input_ids", start=0, end=1)
        new = graph.op("Shape", "input_ids", start=1, end=2)
        past = graph.op("Shape", "past_key.0", start=2, end=3)
        total = graph.op("Add", past, new)

        def shape(*parts: str | int) -> str:
            tensors = [p if isinstance(p, str) else graph.const([p]) for p in parts]
            return graph.op("Concat", *tensors, axis=0)

        self.flat = graph.const([-1, config.hidden])
        self.per_head = shape(batch, new, -1, dim)
        self.grouped = shape(batch, kv, -1, dim)
        self.scores = shape(batch, kv, heads // kv, new, total)
        self.joined = shape(batch, kv, -1, total)
        self.heads = shape(batch, heads, new, dim)
        self.attended = graph.const([-1, heads * dim])
        self.past_and_new = shape(past, new)
        self.qkv_sizes = graph.const([heads * dim, kv * dim, kv * dim])
        self.gate_up_sizes = graph.const([config.intermediate] * 2)


def build_graph(config: ModelConfig, weights: Weights, weights_file: str) -> ModelProto:
    """The model; `weights_file` is the safetensors file's name beside the graph."""
    graph = GraphWriter(weights_file)
    decoder = _Decoder(graph, config, weights)
    x = graph.op("Reshape", weights.embed(graph, "input_ids"), decoder.shapes.flat)
    for layer in range(config.layers):
        x = decoder.attention(x, layer)
        x = decoder.feed_forward(x, layer)
    x = graph.op("Gather", x, "logits_index", axis=0)
    weights.head(graph, decoder.normalise(x, FINAL_NORM), "logits")
    return graph.model(config.family, _inputs(config), _outputs(config))


class _Decoder:
    """The layers; x is float32 `[B·S, hidden]` throughout."""

    def __init__(self, graph: GraphWriter, config: ModelConfig, weights: Weights) -> None:
        self.graph = graph
        self.config = config
        self.weights = weights
        self.shapes = _Shapes(graph, config)
        cos, sin = rotary_tables(config)
        self.cos, self.sin = graph.const(cos, "rotary_cos"), graph.const(sin, "rotary_sin")
        seen, hidden = graph.const(np.float32(0)), graph.const(np.float32(-np.inf))
        bias = graph.op("Where", "attention_mask", seen, hidden)
        self.bias = graph.op("Unsqueeze", bias, graph.const([1]))

    def normalise(self, x: str, name: str) -> str:
        """RMSNorm (Zhang and Sennrich, 2019)."""
        weight = self.weights.norm(self.graph, name)
        epsilon = self.config.norm_eps
        return self.graph.op("RMSNormalization", x, weight, axis=-1, epsilon=epsilon)

    def attention(self, x: str, layer: int) -> str:
        """Grouped-query attention (Ainslie et al., 2023) with rotary positions, plus x."""
        graph, shapes = self.graph, self.shapes
        normed = self.normalise(x, layer_tensor(layer, "input_layernorm"))
        stacked = self.weights.linear(graph, normed, layer, QKV)
        q, k, v = (
            graph.op("Transpose", graph.op("Reshape", part, shapes.per_head), perm=[0, 2, 1, 3])
            for part in graph.split(stacked, 3, shapes.qkv_sizes)
        )
        q = graph.op("RotaryEmbedding", q, self.cos, self.sin, "position_ids")
        k = graph.op("RotaryEmbedding", k, self.cos, self.sin, "position_ids")
        k = graph.op("Identity", k, output=f"new_key.{layer}")
        v = graph.op("Identity", v, output=f"new_value.{layer}")
        q = graph.op("Mul", q, graph.const(np.float32(self.config.head_dim**-0.5)))
        q = graph.op("Reshape", q, shapes.grouped)
        keys = [graph.op("Transpose", name, perm=[0, 1, 3, 2]) for name in (f"past_key.{layer}", k)]
        scores = graph.op("Concat", *(graph.op("MatMul", q, key) for key in keys), axis=-1)
        scores = graph.op("Add", graph.op("Reshape", scores, shapes.scores), self.bias)
        shares = graph.op("Reshape", graph.op("Softmax", scores, axis=-1), shapes.joined)
        past, new = graph.split(shares, 2, shapes.past_and_new)
        mixed = graph.op(
            "Add", graph.op("MatMul", past, f"past_value.{layer}"), graph.op("MatMul", new, v)
        )
        mixed = graph.op("Transpose", graph.op("Reshape", mixed, shapes.heads), perm=[0, 2, 1, 3])
        mixed = graph.op("Reshape", mixed, shapes.attended)
        return graph.op("Add", x, self.weights.linear(graph, mixed, layer, ("self_attn.o_proj",)))

    def feed_forward(self, x: str, layer: int) -> str:
        """SwiGLU (Shazeer, 2020), plus x."""
        graph = self.graph
        normed = self.normalise(x, layer_tensor(layer, "post_attention_layernorm"))
        stacked = self.weights.linear(graph, normed, layer, GATE_UP)
        gate, up = graph.split(stacked, 2, self.shapes.gate_up_sizes)
        gate = graph.op("Mul", gate, graph.op("Sigmoid", gate))
        inner = graph.op("Mul", gate, up)
        return graph.op("Add", x, self.weights.linear(graph, inner, layer, ("mlp.down_proj",)))


def rotary_tables(config: ModelConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosine and sine of position × frequency, `[context, head_dim / 2]`."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    angles = np.outer(np.arange(config.context), config.rope_theta**-exponent)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _inputs(config: ModelConfig) -> list[ValueInfoProto]:
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"])
        for name in ("input_ids", "position_ids")
    ]
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.BOOL, ["B", 1, "S", "T"])
    index = helper.make_tensor_value_info("logits_index", TensorProto.INT64, ["N"])
    return [*ids, mask, index, *_caches(config, "past", "P")]


def _outputs(config: ModelConfig) -> list[ValueInfoProto]:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", config.vocab])
    return [logits, *_caches(config, "new", "S")]


def _caches(config: ModelConfig, prefix: str, length: str) -> list[ValueInfoProto]:
    shape = ["B", config.kv_heads, length, config.head_dim]
    return [
        helper.make_tensor_value_info(f"{prefix}_{kind}.{layer}", TensorProto.FLOAT, shape)
        for layer in range(config.layers)
        for kind in ("key", "value")
    ]
