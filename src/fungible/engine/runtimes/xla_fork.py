"""Copies the cached beginning of one slot to another, on the device."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Caches = tuple[jax.Array, ...]


@partial(jax.jit, static_argnames="window", donate_argnames="caches")
def copy_prefix(caches: Caches, rows: jax.Array, *, window: int) -> Caches:
    """The caches `(N, kv_heads, C, head_dim)`, written in place.

    Args:
        caches: Keys and values of every layer; not usable afterwards.
        rows: int32 `(2,)`: the slot to copy from and the one to copy to.
        window: Positions copied; the function is compiled once for each value.
    """
    source, target = rows[0], rows[1]
    zero = jnp.int32(0)

    def copied(cache: jax.Array) -> jax.Array:
        sizes = (1, cache.shape[1], window, cache.shape[3])
        piece = lax.dynamic_slice(cache, (source, zero, zero, zero), sizes)
        return lax.dynamic_update_slice(cache, piece, (target, zero, zero, zero))

    return tuple(copied(cache) for cache in caches)


def smallest(windows: Sequence[int], length: int) -> int:
    """The first of the ascending windows that holds `length` tokens."""
    return next(window for window in windows if window >= length)


def zero_caches(arguments: Sequence[Any], sizes: dict[str, int], device: jax.Device) -> Caches:
    """Empty keys and values as the program's arguments describe them."""
    return tuple(
        jnp.zeros(
            tuple(sizes.get(str(size), size) for size in item.shape),
            jnp.dtype(item.dtype),
            device=device,
        )
        for item in arguments
    )
