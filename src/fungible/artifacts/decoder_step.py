"""The decoder's forward step in JAX, written to be exported once and never imported again.

One function serves prefill and decode. Weights are arguments, so the exported program holds no
parameters; `step_weights` says how a variant stores them. Every dimension that depends on the
deployment is read from an argument's shape: rows `B`, tokens per row `S`, slots `N`, cache
length `C` and the attended prefix `P`.

Architecture: Touvron et al. 2023 (arXiv:2302.13971), rotary embedding of Su et al. 2021
(arXiv:2104.09864) in its half-split form, grouped queries of Ainslie et al. 2023
(arXiv:2305.13245).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fungible.artifacts.checkpoint import FINAL_NORM, GATE_UP, QKV, layer_bias, layer_tensor
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.rotary import amplitude, frequencies
from fungible.artifacts.step_weights import Named, StepWeights, multiply

Cache = tuple[jax.Array, ...]
Step = Callable[..., tuple[jax.Array, Cache, Cache]]

_MASKED = np.float32(-1e30)
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
_WINDOW_WRITE = lax.ScatterDimensionNumbers(
    update_window_dims=(1, 2, 3), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 2)
)


def build_step(config: ModelConfig, weights: StepWeights) -> Step:
    """The step function of one model, ready for `jax.jit`.

    Its arguments are `(arrays, keys, values, tokens, slots, starts, counts, window)`:
    arrays in the order of `weights.arguments()`; keys and values one array
    `(N, kv_heads, C, head_dim)` per layer, of the type that the cache has; int32 tokens
    `(B, S)`; and per row the slot it belongs to, the position of its first token and how many
    of its tokens count, each `(B,)`. `window` is `0 … P-1`: the positions attended to, so that
    a short prompt does not pay for a long cache.

    Rows have distinct slots, and every counted position is below P. A row with
    `starts + S > C` writes nothing; what a row writes past its count must be overwritten
    before it is attended to, as it is when the next tokens follow on.

    It returns float32 logits `(B, vocab)` after each row's last counted token, and the caches.
    """
    names = list(weights.arguments())

    def step(  # noqa: PLR0917  # jax.export takes arguments by position
        arrays: Cache,
        keys: Cache,
        values: Cache,
        tokens: jax.Array,
        slots: jax.Array,
        starts: jax.Array,
        counts: jax.Array,
        window: jax.Array,
    ) -> tuple[jax.Array, Cache, Cache]:
        model = _Decoder(config, weights, dict(zip(names, arrays, strict=True)))
        hidden = model.embed(tokens)
        positions = starts[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
        kinds = sorted({config.has_window(index) for index in range(config.layers)})
        turns = {kind: _rotation(positions, config, windowed=kind) for kind in kinds}
        masks = {kind: _mask(positions, window, config, windowed=kind) for kind in kinds}
        new_keys, new_values = [], []
        for index in range(config.layers):
            turn, mask = turns[config.has_window(index)], masks[config.has_window(index)]
            query, key, value = model.project(hidden, index)
            key_cache = _write(keys[index], turn(key), slots, starts)
            value_cache = _write(values[index], value, slots, starts)
            new_keys.append(key_cache)
            new_values.append(value_cache)
            prefix = (_read(key_cache, slots, window), _read(value_cache, slots, window))
            scaled = turn(query) * np.float32(config.score_scale)
            hidden = model.add_attention(hidden, _attend(scaled, *prefix, mask), index)
            hidden = model.add_feed_forward(hidden, index)
        last = jnp.take_along_axis(
            hidden, (counts - 1)[:, None, None], axis=1, mode="promise_in_bounds"
        )
        logits = weights.head(model.named, model.norm(last[:, 0], FINAL_NORM))
        return logits, tuple(new_keys), tuple(new_values)

    return step


class _Decoder:
    """The parts of a layer that know no positions; hidden is float32 `(B, S, hidden)`."""

    def __init__(self, config: ModelConfig, weights: StepWeights, named: Named) -> None:
        self.config = config
        self.weights = weights
        self.named = named

    def embed(self, tokens: jax.Array) -> jax.Array:
        """The rows of the tokens."""
        rows = self.weights.embed(self.named, tokens)
        scale = self.config.embedding_scale
        return rows if scale == 1 else rows * np.float32(scale)

    def norm(self, x: jax.Array, name: str) -> jax.Array:
        """RMSNorm (Zhang and Sennrich, 2019) over the last axis."""
        weight = self.weights.vector(self.named, name)
        if self.config.norm_offset:
            weight = weight + np.float32(1)
        return _rms_norm(x, weight, self.config)

    def project(self, hidden: jax.Array, layer: int) -> list[jax.Array]:
        """Queries, keys and values, each `(B, S, heads, head_dim)`."""
        normed = self.norm(hidden, layer_tensor(layer, "input_layernorm"))
        parts = self.weights.linear(self.named, normed, layer, QKV)
        if self.config.qkv_bias:
            parts = [
                part + self.weights.vector(self.named, layer_bias(layer, name))
                for part, name in zip(parts, QKV, strict=True)
            ]
        query, key, value = (_heads(part, self.config.head_dim) for part in parts)
        if self.config.qk_norm:
            query = self.norm(query, layer_tensor(layer, "self_attn.q_norm"))
            key = self.norm(key, layer_tensor(layer, "self_attn.k_norm"))
        return [query, key, value]

    def add_attention(self, hidden: jax.Array, mixed: jax.Array, layer: int) -> jax.Array:
        """`hidden` plus what attention has mixed."""
        added = self.weights.linear(self.named, mixed, layer, ("self_attn.o_proj",))[0]
        if self.config.post_norms:
            added = self.norm(added, layer_tensor(layer, "post_attention_layernorm"))
        return hidden + added

    def add_feed_forward(self, hidden: jax.Array, layer: int) -> jax.Array:
        """`hidden` plus its gated linear unit (Shazeer, 2020)."""
        before = "pre_feedforward" if self.config.post_norms else "post_attention"
        normed = self.norm(hidden, layer_tensor(layer, f"{before}_layernorm"))
        gate, up = self.weights.linear(self.named, normed, layer, GATE_UP)
        inner = _ACTIVATIONS[self.config.activation](gate) * up
        added = self.weights.linear(self.named, inner, layer, ("mlp.down_proj",))[0]
        if self.config.post_norms:
            added = self.norm(added, layer_tensor(layer, "post_feedforward_layernorm"))
        return hidden + added


def _rms_norm(inputs: jax.Array, weight: jax.Array, config: ModelConfig) -> jax.Array:
    mean_square = jnp.mean(inputs * inputs, axis=-1, keepdims=True)
    return weight * (inputs * lax.rsqrt(mean_square + np.float32(config.norm_eps)))


def _rotation(
    positions: jax.Array, config: ModelConfig, *, windowed: bool
) -> Callable[[jax.Array], jax.Array]:
    """The rotary embedding at `positions (B, S)`, applied to `(B, S, heads, head_dim)`."""
    turns = frequencies(config, windowed=windowed).astype(np.float32)
    angles = positions[..., None].astype(jnp.float32) * turns
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    scale = amplitude(config, windowed=windowed)
    if scale != 1:
        cos, sin = cos * np.float32(scale), sin * np.float32(scale)

    def turn(heads: jax.Array) -> jax.Array:
        if config.turning < config.head_dim:
            turning, still = jnp.split(heads, [config.turning], axis=-1)
            return jnp.concatenate([rotated(turning), still], axis=-1)
        return rotated(heads)

    def rotated(turning: jax.Array) -> jax.Array:
        first, second = jnp.split(turning, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    return turn


def _mask(
    positions: jax.Array, window: jax.Array, config: ModelConfig, *, windowed: bool
) -> jax.Array:
    """What is added to scores, `(B, 1, 1, S, P)`: 0, or a huge negative number where hidden."""
    at, key = positions[:, :, None], window[None, None, :]
    seen = key <= at
    if windowed:
        seen &= at - key < config.window
    return jnp.where(seen, np.float32(0), _MASKED)[:, None, None]


def _heads(x: jax.Array, size: int) -> jax.Array:
    """`(B, S, heads * size)` as `(B, S, heads, size)`."""
    return x.reshape(*x.shape[:2], -1, size)


def _write(cache: jax.Array, new: jax.Array, slots: jax.Array, starts: jax.Array) -> jax.Array:
    """`cache` with `new (B, S, kv_heads, head_dim)` at each row's slot and start."""
    where = jnp.stack([slots, starts], axis=1)
    update = jnp.swapaxes(new, 1, 2).astype(cache.dtype)
    return lax.scatter(
        cache, where, update, _WINDOW_WRITE, unique_indices=True, mode="promise_in_bounds"
    )


def _read(cache: jax.Array, slots: jax.Array, window: jax.Array) -> jax.Array:
    """The first P positions of each row's slot: `(B, kv_heads, P, head_dim)`."""
    prefix = lax.slice_in_dim(cache, 0, window.shape[0], axis=2)
    return prefix.at[slots].get(mode="promise_in_bounds", unique_indices=True)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Grouped-query attention of scaled queries; `(B, S, heads * head_dim)`."""
    rows, length, heads, size = query.shape
    groups = key.shape[1]
    grouped = query.reshape(rows, length, groups, heads // groups, size)
    scores = multiply("bsghd,bgpd->bghsp", grouped, key) + mask
    shares = jax.nn.softmax(scores, axis=-1)
    mixed = multiply("bghsp,bgpd->bsghd", shares, value)
    return mixed.reshape(rows, length, heads * size)
