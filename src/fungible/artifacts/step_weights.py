"""How the exported step multiplies with a variant's weights; `onnx_weights` is the counterpart.

The step computes in float32. What differs between variants is how a weight is stored, so each
way of storing has one class here or in a neighbour of this file.
"""

from collections.abc import Mapping
from typing import Protocol

import jax
from jax import lax

from fungible.artifacts.checkpoint import EMBEDDING, LM_HEAD, expected_tensors, layer_tensor
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.tensors import TensorSpec

Named = Mapping[str, jax.Array]


class StepWeights(Protocol):
    """How a variant's step reads its weights; `named` maps a tensor's name to its argument."""

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
    """Float32 in the Hugging Face layout `[out, in]`."""

    def __init__(self, config: ModelConfig) -> None:
        self._tensors = expected_tensors(config)
        self._head = EMBEDDING if config.tied_embeddings else LM_HEAD

    def arguments(self) -> dict[str, TensorSpec]:
        """See `StepWeights.arguments`."""
        return {name: TensorSpec("F32", shape) for name, shape in self._tensors.items()}

    def embed(self, named: Named, tokens: jax.Array) -> jax.Array:
        """See `StepWeights.embed`."""
        rows: jax.Array = named[EMBEDDING].at[tokens].get(mode="promise_in_bounds")
        return rows

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
    """`x (…, in)` times `weight (out, in)`, in full float32 on every device."""
    contract = (((x.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(x, weight, contract, precision=lax.Precision.HIGHEST)
