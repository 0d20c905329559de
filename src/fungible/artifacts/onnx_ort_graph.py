"""A decoder as an ONNX graph for ONNX Runtime alone: portability given up for speed.

It uses operators of the domain `com.microsoft`: `MatMulNBits` multiplies with packed 4-bit
blocks, `GroupQueryAttention` turns queries and keys and appends to the cache in place,
`SkipSimplifiedLayerNormalization` adds and normalises in one pass. No other runtime has them.

Inputs, with B sequences, S new tokens each, and room for C cached positions:

- `input_ids`: int64 `[B, S]`; S > 1 needs B = 1
- `last_index`: int32 `[B]`, positions held after this step, less one
- `total_length`: int32 `[1]`, the largest number of positions held after this step
- `logits_index`: int64 `[N]`, rows of the flattened `[B·S]` tokens whose logits are wanted
- `past_key.L`, `past_value.L`: float32 `[B, kv_heads, C, head_dim]`

Outputs: `logits` float32 `[N, vocab]`, and `present_key.L`, `present_value.L` float32: the past
with the new positions. Bind them to the memory of the past, and nothing is copied.
"""

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from fungible.artifacts.checkpoint import FINAL_NORM, GATE_UP, QKV, layer_bias, layer_tensor
from fungible.artifacts.graph import GraphWriter
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.onnx_graph import LONGEST_TABLE, rotary_inputs
from fungible.artifacts.onnx_ort_weights import DOMAIN, BlockWeights

# `GroupQueryAttention` takes sines from tables, and only tables that are whole vectors wide.
_TABLE_WIDTH = 8


def build_ort_graph(config: ModelConfig, weights: BlockWeights, weights_file: str) -> ModelProto:
    """The model; `weights_file` is the safetensors file's name beside the graph."""
    graph = GraphWriter(weights_file)
    decoder = _Decoder(graph, config, weights)
    x, normed = decoder.start()
    for layer in range(config.layers):
        before = "pre_feedforward" if config.post_norms else "post_attention"
        x, normed = decoder.add(
            x, decoder.attention(normed, layer), layer_tensor(layer, f"{before}_layernorm")
        )
        after = (
            layer_tensor(layer + 1, "input_layernorm") if layer + 1 < config.layers else FINAL_NORM
        )
        x, normed = decoder.add(x, decoder.feed_forward(normed, layer), after)
    rows = graph.op("Reshape", normed, graph.const([-1, config.hidden]))
    wanted = graph.op("Gather", rows, "logits_index", axis=0)
    weights.head(graph, wanted, "logits")
    return graph.model(config.family, _inputs(config), _outputs(config))


class _Decoder:
    """The layers; x and what is added to it are float32 `[B, S, hidden]`."""

    def __init__(self, graph: GraphWriter, config: ModelConfig, weights: BlockWeights) -> None:
        self.graph = graph
        self.config = config
        self.weights = weights
        heads, kv, dim = config.heads, config.kv_heads, config.head_dim
        lead = graph.op("Shape", "input_ids")
        self.sequences = graph.op("Concat", lead, graph.const([-1]), axis=0)
        self.per_head = graph.const([-1, dim])
        self.qkv_sizes = graph.const([heads * dim, kv * dim, kv * dim])
        self.gate_up_sizes = graph.const([config.intermediate] * 2)
        fits = config.context <= LONGEST_TABLE and not config.turning // 2 % _TABLE_WIDTH
        self.turns_inside = fits
        self.rotary = rotary_inputs(graph, config, "" if fits else self._positions(lead))

    def _positions(self, lead: str) -> str:
        """Of the new tokens, int64 `[B, S]`: the last ones that the sequence holds."""
        graph = self.graph
        zero, one = graph.const(np.int64(0)), graph.const(np.int64(1))
        count = graph.op("Gather", lead, one)
        back = graph.op("Sub", graph.op("Range", zero, count, one), graph.op("Sub", count, one))
        last = graph.op("Cast", "last_index", to=TensorProto.INT64)
        return graph.op("Add", graph.op("Unsqueeze", last, graph.const([1])), back)

    def start(self) -> tuple[str, str]:
        """The rows of the input tokens, and what the first layer reads of them."""
        graph, config = self.graph, self.config
        x = self.weights.embed(graph, "input_ids")
        if config.embedding_scale != 1:
            x = graph.op("Mul", x, graph.const(np.float32(config.embedding_scale)))
        return x, self.normalise(x, layer_tensor(0, "input_layernorm"))

    def add(self, x: str, added: str, norm: str) -> tuple[str, str]:
        """Their sum, and the sum normalised with the weight `norm`."""
        total, normed = f"sum_before.{norm}", f"normed.{norm}"
        self.graph.outputs(
            "SkipSimplifiedLayerNormalization",
            [x, added, self._weight(norm)],
            [normed, "", "", total],
            domain=DOMAIN,
            epsilon=self.config.norm_eps,
        )
        return total, normed

    def normalise(self, x: str, name: str) -> str:
        """RMSNorm (Zhang and Sennrich, 2019)."""
        epsilon = self.config.norm_eps
        return self.graph.op("RMSNormalization", x, self._weight(name), axis=-1, epsilon=epsilon)

    def _weight(self, name: str) -> str:
        weight = self.weights.norm(self.graph, name)
        if not self.config.norm_offset:
            return weight
        return self.graph.op("Add", weight, self.graph.const(np.float32(1)))

    def attention(self, normed: str, layer: int) -> str:
        """What grouped-query attention (Ainslie et al., 2023) adds to x."""
        graph, config = self.graph, self.config
        names = [f"attended.{layer}", f"present_key.{layer}", f"present_value.{layer}"]
        window = config.has_window(layer)
        past = [f"past_key.{layer}", f"past_value.{layer}"]
        graph.outputs(
            "GroupQueryAttention",
            [
                *self._queries_keys_values(normed, layer),
                *past,
                "last_index",
                "total_length",
                *(self.rotary[window][:2] if self.turns_inside else ()),
            ],
            names,
            domain=DOMAIN,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            scale=config.score_scale,
            do_rotary=int(self.turns_inside),
            local_window_size=config.window if window else -1,
        )
        mixed = self.weights.linear(graph, names[0], layer, ("self_attn.o_proj",))
        return self._post_norm(mixed, layer, "post_attention")

    def _queries_keys_values(self, normed: str, layer: int) -> list[str]:
        """Each `[B, S, heads · head_dim]`, or all of them side by side and two empty names."""
        graph, config = self.graph, self.config
        stacked = self.weights.linear(graph, normed, layer, QKV)
        if config.qkv_bias:
            biases = [self.weights.norm(graph, layer_bias(layer, part)) for part in QKV]
            stacked = graph.op("Add", stacked, graph.op("Concat", *biases, axis=0))
        if self.turns_inside and not config.qk_norm:
            return [stacked, "", ""]
        q, k, v = graph.split(stacked, 3, self.qkv_sizes)
        if config.qk_norm:
            q = self._head_norm(q, layer_tensor(layer, "self_attn.q_norm"))
            k = self._head_norm(k, layer_tensor(layer, "self_attn.k_norm"))
        if not self.turns_inside:
            q = self._turn(q, layer, config.heads)
            k = self._turn(k, layer, config.kv_heads)
        return [q, k, v]

    def _turn(self, x: str, layer: int, heads: int) -> str:
        partial: dict[str, Any] = {}
        if self.config.rotary_dim:
            partial["rotary_embedding_dim"] = self.config.rotary_dim
        rotary = self.rotary[self.config.has_window(layer)]
        return self.graph.op("RotaryEmbedding", x, *rotary, num_heads=heads, **partial)

    def _head_norm(self, x: str, name: str) -> str:
        normed = self.normalise(self.graph.op("Reshape", x, self.per_head), name)
        return self.graph.op("Reshape", normed, self.sequences)

    def feed_forward(self, normed: str, layer: int) -> str:
        """What a gated linear unit (Shazeer, 2020) adds to x."""
        graph, config = self.graph, self.config
        stacked = self.weights.linear(graph, normed, layer, GATE_UP)
        gate, up = graph.split(stacked, 2, self.gate_up_sizes)
        if config.activation == "gelu_tanh":
            gate = graph.op("Gelu", gate, approximate="tanh")
        else:
            gate = graph.op("QuickGelu", gate, domain=DOMAIN, alpha=1.0)
        added = self.weights.linear(graph, graph.op("Mul", gate, up), layer, ("mlp.down_proj",))
        return self._post_norm(added, layer, "post_feedforward")

    def _post_norm(self, added: str, layer: int, part: str) -> str:
        if not self.config.post_norms:
            return added
        return self.normalise(added, layer_tensor(layer, f"{part}_layernorm"))


def _inputs(config: ModelConfig) -> list[ValueInfoProto]:
    info = helper.make_tensor_value_info
    return [
        info("input_ids", TensorProto.INT64, ["B", "S"]),
        info("last_index", TensorProto.INT32, ["B"]),
        info("total_length", TensorProto.INT32, [1]),
        info("logits_index", TensorProto.INT64, ["N"]),
        *_caches(config, "past", "C"),
    ]


def _outputs(config: ModelConfig) -> list[ValueInfoProto]:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", config.vocab])
    return [logits, *_caches(config, "present", "T")]


def _caches(config: ModelConfig, prefix: str, length: str) -> list[ValueInfoProto]:
    shape = ["B", config.kv_heads, length, config.head_dim]
    return [
        helper.make_tensor_value_info(f"{prefix}_{kind}.{layer}", TensorProto.FLOAT, shape)
        for layer in range(config.layers)
        for kind in ("key", "value")
    ]
