"""How the exported step multiplies with a variant's weights; `onnx_weights` is the counterpart.

Between products the step computes in float32. What differs between variants is how a weight is
stored, so each way of storing has one class here or in a neighbour of this file.
"""

from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

from fungible.artifacts.checkpoint import EMBEDDING, LM_HEAD, layer_tensor
from fungible.artifacts.half_precision import float_layout
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.tensors import PROGRAM_TYPES, TensorSpec

Named = Mapping[str, jax.Array]


class StepWeights(Protocol):
    """How a variant's step reads its weights; `named` maps a tensor's name to its argument.

    Attributes:
        cache_dtype: The program's name of the type of cached keys and values.
    """

    cache_dtype: str

    def arguments(self) -> dict[str, TensorSpec]:
        """The tensors of the variant's safetensors file that the step takes, in order."""
        ...

    def embed(self, named: Named, tokens: jax.Array) -> jax.Array:
        """Rows of the embedding table: int32 `(B, S)` -> float32 `(B, S, hidden)`."""
        ...

    def vector(self, named: Named, name: str) -> jax.Array:
        """A normalisation weight or bias, float32 `(n,)`."""
        ...

    def linear(
        self, named: Named, x: jax.Array, layer: int, parts: tuple[str, ...]
    ) -> list[jax.Array]:
        """X `(…, in)` times each part's transposed weight: one `(…, out)` per part."""
        ...

    def head(self, named: Named, x: jax.Array) -> jax.Array:
        """Logits of x: `(…, hidden)` -> `(…, vocab)`."""
        ...


class FloatStepWeights:
    """Floating-point in the Hugging Face layout `[out, in]`; the cache has the same type.

    Args:
        config: The model's shape.
        dtype: Of the matrices: `F32`, `BF16` or `F16`.
    """

    def __init__(self, config: ModelConfig, dtype: str = "F32") -> None:
        self.cache_dtype = PROGRAM_TYPES[dtype]
        self._layout = float_layout(config, dtype)
        self._head = EMBEDDING if config.tied_embeddings else LM_HEAD

    def arguments(self) -> dict[str, TensorSpec]:
        """See `StepWeights.arguments`."""
        return self._layout

    def embed(self, named: Named, tokens: jax.Array) -> jax.Array:
        """See `StepWeights.embed`."""
        rows: jax.Array = named[EMBEDDING].at[tokens].get(mode="promise_in_bounds")
        return rows.astype(jnp.float32)

    def vector(self, named: Named, name: str) -> jax.Array:
        """See `StepWeights.vector`."""
        return named[name]

    def linear(
        self, named: Named, x: jax.Array, layer: int, parts: tuple[str, ...]
    ) -> list[jax.Array]:
        """See `StepWeights.linear`."""
        return [product(x, named[layer_tensor(layer, part)]) for part in parts]

    def head(self, named: Named, x: jax.Array) -> jax.Array:
        """See `StepWeights.head`."""
        return product(x, named[self._head])


def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`x (…, in)` times `weight (out, in)`, see `multiply`."""
    return multiply("...i,oi->...o", x, weight)


def multiply(equation: str, x: jax.Array, stored: jax.Array) -> jax.Array:
    """Float32 product of computed values x and a weight or cache, as its type asks for.

    - float32: in full float32 on every device.
    - bfloat16: x is rounded to bfloat16 as well and sums are float32, which is what matrix
      units of accelerators do.
    - float16: in float32, as computed values may be beyond float16's range.
    """
    if stored.dtype == jnp.bfloat16:
        rounded = x.astype(jnp.bfloat16)
        return jnp.einsum(equation, rounded, stored, preferred_element_type=jnp.float32)
    exact = lax.Precision.HIGHEST
    return jnp.einsum(equation, x, stored.astype(jnp.float32), precision=exact)
