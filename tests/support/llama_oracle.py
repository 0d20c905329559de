"""The Llama forward pass in plain numpy float64, written apart from every graph we build."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.model_config import ModelConfig

Array = NDArray[np.float64]


def oracle_logits(
    weights: Mapping[str, NDArray[np.float32]], config: ModelConfig, tokens: list[int]
) -> Array:
    """Logits `(len(tokens), vocab)`, one row per position."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        x = x + _attend(w, prefix, config, _norm(x, w[prefix + "input_layernorm.weight"], config))
        y = _norm(x, w[prefix + "post_attention_layernorm.weight"], config)
        gate = y @ w[prefix + "mlp.gate_proj.weight"].T
        up = y @ w[prefix + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[prefix + "mlp.down_proj.weight"].T
    x = _norm(x, w["model.norm.weight"], config)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def _norm(x: Array, weight: Array, config: ModelConfig) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_eps) * weight


def _rotate(x: Array, config: ModelConfig) -> Array:
    """Rotate the pairs (i, i + head_dim/2) of one head's rows, row t by t × frequency i."""
    half = config.head_dim // 2
    out = np.empty_like(x)
    for position in range(len(x)):
        for i in range(half):
            angle = position / config.rope_theta ** (2 * i / config.head_dim)
            a, b = x[position, i], x[position, i + half]
            out[position, i] = a * np.cos(angle) - b * np.sin(angle)
            out[position, i + half] = b * np.cos(angle) + a * np.sin(angle)
    return out


def _attend(w: dict[str, Array], prefix: str, config: ModelConfig, x: Array) -> Array:
    dim, group = config.head_dim, config.heads // config.kv_heads
    q, k, v = (x @ w[f"{prefix}self_attn.{name}_proj.weight"].T for name in "qkv")
    heads = []
    for head in range(config.heads):
        shared = slice(head // group * dim, head // group * dim + dim)
        query = _rotate(q[:, head * dim : head * dim + dim], config)
        key = _rotate(k[:, shared], config)
        scores = query @ key.T / np.sqrt(dim)
        scores[np.triu_indices(len(x), 1)] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        heads.append(shares / shares.sum(axis=-1, keepdims=True) @ v[:, shared])
    return np.concatenate(heads, axis=-1) @ w[f"{prefix}self_attn.o_proj.weight"].T
