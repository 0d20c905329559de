"""A decoder as one ONNX graph of standard operators (opset 23), built from its `ModelConfig`.

Inputs, with B sequences, S new tokens each, P cached positions, T = P + S:

- `input_ids`, `position_ids`: int64 `[B, S]`
- `attention_mask`: bool `[B, 1, S, T]`, true where a token may look
- `logits_index`: int64 `[N]`, rows of the flattened `[B·S]` tokens whose logits are wanted
- `past_key.L`, `past_value.L`: float32 `[B, kv_heads, P, head_dim]`, keys already rotated

Outputs: `logits` float32 `[N, vocab]`, and `new_key.L`, `new_value.L` float32
`[B, kv_heads, S, head_dim]`: only what is new, so that a runtime can keep its own cache.

Attention is written as two products, one with the cache and one with the new tokens, joined
before the softmax. The standard `Attention` operator would copy the whole cache at each step.

A sliding window narrows the mask inside the graph. Token i of the past is at position i; runtimes
may pad the past with positions that `attention_mask` hides. What a model does not use adds no node.
"""

from typing import Any, Protocol

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from fungible.artifacts.checkpoint import FINAL_NORM, GATE_UP, QKV, layer_bias, layer_tensor
from fungible.artifacts.graph import GraphWriter
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.rotary import amplitude, frequencies, rotary_tables

# Longer tables of sines would make the graph a file of many megabytes; it computes them then.
LONGEST_TABLE = 16_384


class Weights(Protocol):
    """How a variant multiplies with its weights."""

    def embed(self, graph: GraphWriter, ids: str) -> str:
        """Rows of the embedding table: int64 `[B, S]` -> float32 `[B, S, hidden]`."""
        ...

    def norm(self, graph: GraphWriter, name: str) -> str:
        """A normalisation weight or bias, float32 `[n]`."""
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

        def shape(*parts: str | int) -> str:
            tensors = [p if isinstance(p, str) else graph.const([p]) for p in parts]
            return graph.op("Concat", *tensors, axis=0)

        self.flat = graph.const([-1, config.hidden])
        self.per_head = shape(batch, new, -1, dim)
        self.grouped = shape(batch, kv, -1, dim)
        self.heads = shape(batch, heads, new, dim)
        self.attended = graph.const([-1, heads * dim])
        self.past_and_new = shape(past, new)
        self.heads_of_each = graph.const([heads, kv, kv])
        self.gate_up_sizes = graph.const([config.intermediate] * 2)


def build_graph(config: ModelConfig, weights: Weights, weights_file: str) -> ModelProto:
    """The model; `weights_file` is the safetensors file's name beside the graph."""
    graph = GraphWriter(weights_file)
    decoder = _Decoder(graph, config, weights)
    x = graph.op("Reshape", decoder.embed(), decoder.shapes.flat)
    for layer in range(config.layers):
        x = decoder.attention(x, layer)
        x = decoder.feed_forward(x, layer)
    x = graph.op("Gather", x, "logits_index", axis=0)
    weights.head(graph, decoder.normalise(x, FINAL_NORM), "logits")
    return graph.model(config.family, _inputs(config), _outputs(config))


def rotary_inputs(
    graph: GraphWriter, config: ModelConfig, positions: str, *, scale: float = 1.0
) -> dict[bool, tuple[str, ...]]:
    """What `RotaryEmbedding` takes beside the heads, by whether the layer has the window.

    Args:
        graph: Where tables or nodes are added.
        config: The model's shape.
        positions: Of the tokens, int64 `[B, S]`.
        scale: Factor of all sines and cosines.
    """
    kinds = {config.has_window(layer) for layer in range(config.layers)}
    if config.local_rope_theta is None:
        turns = _turns(graph, config, positions, np.float32(scale), windowed=False)
        return dict.fromkeys(kinds, turns)
    return {
        kind: _turns(graph, config, positions, np.float32(scale), windowed=kind)
        for kind in sorted(kinds)
    }


def _turns(
    graph: GraphWriter, config: ModelConfig, positions: str, scale: np.float32, *, windowed: bool
) -> tuple[str, ...]:
    if config.context <= LONGEST_TABLE:
        tables = rotary_tables(config, windowed=windowed)
        return *(graph.const(scale * table) for table in tables), positions
    turns = frequencies(config, windowed=windowed).astype(np.float32)
    floats = graph.op("Cast", positions, to=TensorProto.FLOAT)
    floats = graph.op("Unsqueeze", floats, graph.const([-1]))
    angles = graph.op("Mul", floats, graph.const(turns))
    scale = scale * np.float32(amplitude(config, windowed=windowed))
    return tuple(_scaled(graph, graph.op(kind, angles), scale) for kind in ("Cos", "Sin"))


def _scaled(graph: GraphWriter, x: str, scale: np.float32) -> str:
    return x if scale == 1 else graph.op("Mul", x, graph.const(scale))


class _Decoder:
    """The layers; x is float32 `[B·S, hidden]` throughout."""

    def __init__(self, graph: GraphWriter, config: ModelConfig, weights: Weights) -> None:
        self.graph = graph
        self.config = config
        self.weights = weights
        self.shapes = _Shapes(graph, config)
        kinds = sorted({config.has_window(layer) for layer in range(config.layers)})
        self.rotary = rotary_inputs(graph, config, "position_ids")
        # Where every dimension turns, queries are scaled by the sines that turn them.
        self.scaled_rotary = (
            self.rotary
            if config.rotary_dim
            else rotary_inputs(graph, config, "position_ids", scale=config.score_scale)
        )
        self.bias = {kind: self._bias(windowed=kind) for kind in kinds}

    def _bias(self, *, windowed: bool) -> str:
        """What is added to scores `[B, kv_heads, group·S, T]`: 0, or −∞ where hidden."""
        graph, config = self.graph, self.config
        mask = self._windowed_mask() if windowed else "attention_mask"
        seen, hidden = graph.const(np.float32(0)), graph.const(np.float32(-np.inf))
        bias = graph.op("Where", mask, seen, hidden)
        group = config.heads // config.kv_heads
        return bias if group == 1 else graph.op("Tile", bias, graph.const([1, 1, group, 1]))

    def _windowed_mask(self) -> str:
        """`attention_mask` without what lies `window` or more positions back."""
        graph = self.graph
        zero, one = graph.const(np.int64(0)), graph.const(np.int64(1))
        length = graph.op("Squeeze", graph.op("Shape", "past_key.0", start=2, end=3))
        past = graph.op("Range", zero, length, one)
        new = graph.op("Unsqueeze", "position_ids", graph.const([1]))
        at = graph.op("Unsqueeze", "position_ids", graph.const([2]))
        window = graph.const(np.int64(self.config.window))
        near = [graph.op("Less", graph.op("Sub", at, key), window) for key in (past, new)]
        joined = graph.op("Unsqueeze", graph.op("Concat", *near, axis=-1), graph.const([1]))
        return graph.op("And", "attention_mask", joined)

    def embed(self) -> str:
        """The rows of the input tokens: `[B, S, hidden]`."""
        rows = self.weights.embed(self.graph, "input_ids")
        return _scaled(self.graph, rows, np.float32(self.config.embedding_scale))

    def normalise(self, x: str, name: str) -> str:
        """RMSNorm (Zhang and Sennrich, 2019)."""
        weight = self.weights.norm(self.graph, name)
        if self.config.norm_offset:
            weight = self.graph.op("Add", weight, self.graph.const(np.float32(1)))
        epsilon = self.config.norm_eps
        return self.graph.op("RMSNormalization", x, weight, axis=-1, epsilon=epsilon)

    def attention(self, x: str, layer: int) -> str:
        """Grouped-query attention (Ainslie et al., 2023) with rotary positions, plus x."""
        graph, shapes = self.graph, self.shapes
        q, k, v = self._queries_keys_values(x, layer)
        q = graph.op("Reshape", q, shapes.grouped)
        keys = [graph.op("Transpose", name, perm=[0, 1, 3, 2]) for name in (f"past_key.{layer}", k)]
        scores = graph.op("Concat", *(graph.op("MatMul", q, key) for key in keys), axis=-1)
        bias = self.bias[self.config.has_window(layer)]
        shares = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
        past, new = graph.split(shares, 2, shapes.past_and_new)
        mixed = graph.op(
            "Add", graph.op("MatMul", past, f"past_value.{layer}"), graph.op("MatMul", new, v)
        )
        mixed = graph.op("Transpose", graph.op("Reshape", mixed, shapes.heads), perm=[0, 2, 1, 3])
        mixed = graph.op("Reshape", mixed, shapes.attended)
        mixed = self.weights.linear(graph, mixed, layer, ("self_attn.o_proj",))
        if self.config.post_norms:
            mixed = self.normalise(mixed, layer_tensor(layer, "post_attention_layernorm"))
        return graph.op("Add", x, mixed)

    def _queries_keys_values(self, x: str, layer: int) -> list[str]:
        """Of x, each `[B, heads, S, head_dim]`.

        Queries and keys are turned to their positions, queries scaled as scores have to be.
        """
        graph, config, shapes = self.graph, self.config, self.shapes
        normed = self.normalise(x, layer_tensor(layer, "input_layernorm"))
        stacked = self.weights.linear(graph, normed, layer, QKV)
        if config.qkv_bias:
            biases = [self.weights.norm(graph, layer_bias(layer, part)) for part in QKV]
            stacked = graph.op("Add", stacked, graph.op("Concat", *biases, axis=0))
        heads = graph.op("Reshape", stacked, shapes.per_head)
        heads = graph.op("Transpose", heads, perm=[0, 2, 1, 3])
        names = [f"queries.{layer}", f"keys.{layer}", f"new_value.{layer}"]
        q, k, v = graph.outputs("Split", [heads, shapes.heads_of_each], names, axis=1)
        if config.qk_norm:
            q = self.normalise(q, layer_tensor(layer, "self_attn.q_norm"))
            k = self.normalise(k, layer_tensor(layer, "self_attn.k_norm"))
        window = config.has_window(layer)
        partial: dict[str, Any] = {}
        if config.rotary_dim:
            partial["rotary_embedding_dim"] = config.rotary_dim
            q = graph.op("Mul", q, graph.const(np.float32(config.score_scale)))
        q = graph.op("RotaryEmbedding", q, *self.scaled_rotary[window], **partial)
        k = graph.op(
            "RotaryEmbedding", k, *self.rotary[window], output=f"new_key.{layer}", **partial
        )
        return [q, k, v]

    def feed_forward(self, x: str, layer: int) -> str:
        """A gated linear unit (Shazeer, 2020), plus x."""
        graph, config = self.graph, self.config
        before = "pre_feedforward" if config.post_norms else "post_attention"
        normed = self.normalise(x, layer_tensor(layer, f"{before}_layernorm"))
        stacked = self.weights.linear(graph, normed, layer, GATE_UP)
        gate, up = graph.split(stacked, 2, self.shapes.gate_up_sizes)
        if config.activation == "gelu_tanh":
            gate = graph.op("Gelu", gate, approximate="tanh")
        else:
            gate = graph.op("Mul", gate, graph.op("Sigmoid", gate))
        inner = graph.op("Mul", gate, up)
        added = self.weights.linear(graph, inner, layer, ("mlp.down_proj",))
        if config.post_norms:
            added = self.normalise(added, layer_tensor(layer, "post_feedforward_layernorm"))
        return graph.op("Add", x, added)


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
