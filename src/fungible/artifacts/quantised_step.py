"""Quantised weights in the exported step: opened by standard operations, then multiplied.

The tensors are those of the variant's safetensors file, as `quantize` writes them: matrices
`[in, out]` with a scale, and for some a shift, per block of inputs. Products are float32, so
unlike an engine that rounds activations to 8 bits, this form has no error but the weights'.
"""

import jax
import jax.numpy as jnp

from fungible.artifacts.checkpoint import EMBEDDING, LM_HEAD
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.quantize import Scheme, group_name, layout
from fungible.artifacts.step_weights import Named, multiply
from fungible.artifacts.tensors import TensorSpec


class QuantisedStepWeights:
    """One of `quantize.SCHEMES`; see `StepWeights`. The cache is float32."""

    cache_dtype = "float32"

    def __init__(self, config: ModelConfig, scheme: Scheme) -> None:
        self._config = config
        self._scheme = scheme
        self._layout = layout(config, scheme)

    def arguments(self) -> dict[str, TensorSpec]:
        """See `StepWeights.arguments`."""
        return self._layout

    def embed(self, named: Named, tokens: jax.Array) -> jax.Array:
        """See `StepWeights.embed`."""
        rows = named[EMBEDDING].at[tokens].get(mode="promise_in_bounds").astype(jnp.float32)
        scale = named[f"{EMBEDDING}.scale"].at[tokens].get(mode="promise_in_bounds")
        blocks = rows.reshape(*rows.shape[:-1], scale.shape[-1], -1)
        return (blocks * scale[..., None]).reshape(rows.shape)

    def vector(self, named: Named, name: str) -> jax.Array:
        """See `StepWeights.vector`."""
        return named[name]

    def linear(
        self, named: Named, x: jax.Array, layer: int, parts: tuple[str, ...]
    ) -> list[jax.Array]:
        """See `StepWeights.linear`; the parts are one matrix in the file."""
        weight = self._open(named, group_name(layer, parts), self._scheme.bits)
        return jnp.split(
            multiply("...i,io->...o", x, weight), self._cuts(parts, weight.shape[1]), -1
        )

    def head(self, named: Named, x: jax.Array) -> jax.Array:
        """See `StepWeights.head`."""
        return multiply("...i,io->...o", x, self._open(named, LM_HEAD, self._scheme.head_bits))

    def _cuts(self, parts: tuple[str, ...], total: int) -> list[int]:
        """Where one part ends and the next begins."""
        if len(parts) == 1:
            return []
        if len(parts) == 2:
            return [total // 2]
        queries = self._config.heads * self._config.head_dim
        return [queries, (queries + total) // 2]

    def _open(self, named: Named, name: str, bits: int) -> jax.Array:
        """The matrix `(in, out)` in float32."""
        scale = named[f"{name}.scale"]
        blocks, columns = scale.shape
        values = named[name] if bits == 8 else _unpack4(named[name])
        weight = values.astype(jnp.float32).reshape(blocks, -1, columns) * scale[:, None]
        if f"{name}.shift" in self._layout:
            weight = weight + named[f"{name}.shift"][:, None]
        return weight.reshape(-1, columns)


def _unpack4(packed: jax.Array) -> jax.Array:
    """Bytes `(n,)` as 4-bit integers `(2n,)` in int8; the low four bits come first."""
    halves = jnp.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)
    return (halves ^ 8).astype(jnp.int8) - 8
