"""The decoder's forward step in JAX, written to be exported once and never imported again.

One function serves prefill and decode. Weights are arguments, so the exported program holds no
parameters; `step_weights` says how a variant stores them. Every dimension that depends on the
deployment is read from an argument's shape: rows `B`, tokens per row `S`, slots `N`, cache
length `C` and the attended prefix `P`.

Architecture: Touvron et al. 2023 (arXiv:2302.13971), rotary embedding of Su et al. 2021
(arXiv:2104.09864) in its half-split form, grouped queries of Ainslie et al. 2023
(arXiv:2305.13245).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fungible.artifacts.checkpoint import FINAL_NORM, GATE_UP, QKV, layer_tensor
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.step_weights import StepWeights

Cache = tuple[jax.Array, ...]
Step = Callable[..., tuple[jax.Array, Cache, Cache]]

_MASKED = np.float32(-1e30)
_WINDOW_WRITE = lax.ScatterDimensionNumbers(
    update_window_dims=(1, 2, 3), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 2)
)


def build_step(config: ModelConfig, weights: StepWeights) -> Step:
    """The step function of one model, ready for `jax.jit`.

    Its arguments are `(arrays, keys, values, tokens, slots, starts, counts, window)`:
    arrays in the order of `weights.arguments()`; keys and values one float32 array
    `(N, kv_heads, C, head_dim)` per layer; int32 tokens `(B, S)`; and per row the slot it
    belongs to, the position of its first token and how many of its tokens count, each `(B,)`.
    `window` is `0 … P-1`: the positions attended to, so that a short prompt does not pay for a
    long cache.

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
        named = dict(zip(names, arrays, strict=True))
        hidden = weights.embed(named, tokens)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return _rms_norm(x, weights.vector(named, name), config)

        positions = starts[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
        turn = _rotation(positions, config)
        seen = window[None, None, :] <= positions[:, :, None]
        mask = jnp.where(seen, np.float32(0), _MASKED)[:, None, None]
        new_keys, new_values = [], []
        for index in range(config.layers):
            normed = norm(hidden, layer_tensor(index, "input_layernorm"))
            query, key, value = (
                _heads(part, config.head_dim) for part in weights.linear(named, normed, index, QKV)
            )
            key_cache = _write(keys[index], turn(key), slots, starts)
            value_cache = _write(values[index], value, slots, starts)
            new_keys.append(key_cache)
            new_values.append(value_cache)
            prefix = (_read(key_cache, slots, window), _read(value_cache, slots, window))
            mixed = _attend(turn(query), *prefix, mask)
            hidden = hidden + weights.linear(named, mixed, index, ("self_attn.o_proj",))[0]
            normed = norm(hidden, layer_tensor(index, "post_attention_layernorm"))
            gate, up = weights.linear(named, normed, index, GATE_UP)
            inner = jax.nn.silu(gate) * up
            hidden = hidden + weights.linear(named, inner, index, ("mlp.down_proj",))[0]
        last = jnp.take_along_axis(
            hidden, (counts - 1)[:, None, None], axis=1, mode="promise_in_bounds"
        )
        logits = weights.head(named, norm(last[:, 0], FINAL_NORM))
        return logits, tuple(new_keys), tuple(new_values)

    return step


def _rms_norm(inputs: jax.Array, weight: jax.Array, config: ModelConfig) -> jax.Array:
    mean_square = jnp.mean(inputs * inputs, axis=-1, keepdims=True)
    return weight * (inputs * lax.rsqrt(mean_square + np.float32(config.norm_eps)))


def _rotation(positions: jax.Array, config: ModelConfig) -> Callable[[jax.Array], jax.Array]:
    """The rotary embedding at `positions (B, S)`, applied to `(B, S, heads, head_dim)`."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    frequencies = np.asarray(config.rope_theta**-exponents, np.float32)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]

    def turn(heads: jax.Array) -> jax.Array:
        first, second = jnp.split(heads, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    return turn


def _heads(x: jax.Array, size: int) -> jax.Array:
    """`(B, S, heads * size)` as `(B, S, heads, size)`."""
    return x.reshape(*x.shape[:2], -1, size)


def _write(cache: jax.Array, new: jax.Array, slots: jax.Array, starts: jax.Array) -> jax.Array:
    """`cache` with `new (B, S, kv_heads, head_dim)` at each row's slot and start."""
    where = jnp.stack([slots, starts], axis=1)
    update = jnp.swapaxes(new, 1, 2)
    return lax.scatter(
        cache, where, update, _WINDOW_WRITE, unique_indices=True, mode="promise_in_bounds"
    )


def _read(cache: jax.Array, slots: jax.Array, window: jax.Array) -> jax.Array:
    """The first P positions of each row's slot: `(B, kv_heads, P, head_dim)`."""
    prefix = lax.slice_in_dim(cache, 0, window.shape[0], axis=2)
    return prefix.at[slots].get(mode="promise_in_bounds", unique_indices=True)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Grouped-query attention; `(B, S, heads * head_dim)`."""
    rows, length, heads, size = query.shape
    groups = key.shape[1]
    scaled = query * np.float32(size**-0.5)
    grouped = scaled.reshape(rows, length, groups, heads // groups, size)
    exact = lax.Precision.HIGHEST
    scores = jnp.einsum("bsghd,bgpd->bghsp", grouped, key, precision=exact) + mask
    shares = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.einsum("bghsp,bgpd->bsghd", shares, value, precision=exact)
    return mixed.reshape(rows, length, heads * size)
