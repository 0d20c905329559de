"""An encoder's forward pass in JAX, exported once with symbolic sizes, as StableHLO.

The same three files as a decoder's step has, see `stablehlo`: the portable module, the same in
`jax.export`'s wrapper, and the `Program` that says what they take. Weights are arguments.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export, lax

from fungible.artifacts.encoder_checkpoint import POSITIONS, QKV, SEGMENTS, WORDS, encoder_layout
from fungible.artifacts.encoder_config import FEWEST, INPUTS, MASKED, SHORTEST
from fungible.artifacts.model_config import EncoderConfig, ModelConfig
from fungible.artifacts.program import Argument, Program, portable_version
from fungible.artifacts.stablehlo import PLATFORMS, no_source_locations, write_program
from fungible.artifacts.tensors import PROGRAM_TYPES

_SYMBOLS = {"B": "texts of this batch", "S": "tokens per text, filled up on the right"}
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
Named = Mapping[str, jax.Array]


def build_encoder(
    config: ModelConfig, encoder: EncoderConfig
) -> Callable[[tuple[jax.Array, ...], jax.Array, jax.Array, jax.Array], jax.Array]:
    """The function `(weights, input_ids, attention_mask, token_type_ids) -> embeddings`.

    Weights are in the order of `encoder_layout`; the others int32 `(B, S)`, as `encoder_onnx`
    has them. Embeddings are float32 `(B, hidden)`.
    """
    names = list(encoder_layout(config, encoder))

    def encode(
        arrays: tuple[jax.Array, ...], ids: jax.Array, mask: jax.Array, types: jax.Array
    ) -> jax.Array:
        model = _Encoder(config, encoder, dict(zip(names, arrays, strict=True)))
        x = model.embed(ids, types)
        bias = jnp.where(mask != 0, jnp.float32(0), MASKED)[:, None, None, :]
        for layer in range(config.layers):
            x = model.attention(x, bias, layer)
            x = model.feed_forward(x, layer)
        return model.pool(x, mask.astype(jnp.float32)[:, :, None])

    return encode


class _Encoder:
    """The layers; x is float32 `(B, S, hidden)`."""

    def __init__(self, config: ModelConfig, encoder: EncoderConfig, named: Named) -> None:
        self.config = config
        self.encoder = encoder
        self.named = named

    def embed(self, ids: jax.Array, types: jax.Array) -> jax.Array:
        """Token, position and segment, summed and normalised."""
        rows = self._rows(WORDS, ids)
        if self.encoder.token_types:
            rows += self._rows(SEGMENTS, types)
        positions = self._rows(POSITIONS, jnp.arange(ids.shape[1], dtype=jnp.int32))
        return self._normalise(rows + positions[None], "embeddings.LayerNorm")

    def attention(self, x: jax.Array, bias: jax.Array, layer: int) -> jax.Array:
        """Every token looks at every token of its text; plus x, normalised."""
        config, at = self.config, f"encoder.layer.{layer}"
        parts = [self._linear(x, f"{at}.{part}") for part in QKV]
        per_head = (*x.shape[:2], config.heads, config.head_dim)
        q, k, v = (part.reshape(per_head) for part in parts)
        scores = _exact("bqhd,bkhd->bhqk", q * jnp.float32(config.score_scale), k) + bias
        mixed = _exact("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v).reshape(x.shape)
        mixed = self._linear(mixed, f"{at}.attention.output.dense")
        return self._normalise(mixed + x, f"{at}.attention.output.LayerNorm")

    def feed_forward(self, x: jax.Array, layer: int) -> jax.Array:
        """Two products with the activation between them; plus x, normalised."""
        at = f"encoder.layer.{layer}"
        inner = self._linear(x, f"{at}.intermediate.dense")
        outer = self._linear(_ACTIVATIONS[self.encoder.activation](inner), f"{at}.output.dense")
        return self._normalise(outer + x, f"{at}.output.LayerNorm")

    def pool(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        """One vector per text; weights `(B, S, 1)` are 1 for tokens and 0 for filling."""
        if self.encoder.pooling == "cls":
            pooled = x[:, 0]
        else:
            pooled = (x * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), FEWEST)
        if not self.encoder.normalise:
            return pooled
        length = jnp.sqrt((pooled * pooled).sum(axis=-1, keepdims=True))
        return pooled / jnp.maximum(length, SHORTEST)

    def _rows(self, name: str, at: jax.Array) -> jax.Array:
        rows: jax.Array = self.named[name].at[at].get(mode="promise_in_bounds")
        return rows

    def _linear(self, x: jax.Array, name: str) -> jax.Array:
        product = _exact("bsi,oi->bso", x, self.named[f"{name}.weight"])
        return product + self.named[f"{name}.bias"]

    def _normalise(self, x: jax.Array, name: str) -> jax.Array:
        """LayerNorm (Ba et al., 2016)."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        scaled = centred * lax.rsqrt(variance + jnp.float32(self.config.norm_eps))
        return scaled * self.named[f"{name}.weight"] + self.named[f"{name}.bias"]


def _exact(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """A product in full float32 on every device."""
    return jnp.einsum(equation, x, y, precision=lax.Precision.HIGHEST)


def export_encoder(config: ModelConfig, encoder: EncoderConfig, out_dir: Path) -> list[str]:
    """Write the program into the variant's folder; the names of the files written."""
    batch, length = export.symbolic_shape("B, S")
    weights = tuple(
        jax.ShapeDtypeStruct(spec.shape, jnp.dtype(PROGRAM_TYPES[spec.dtype]))
        for spec in encoder_layout(config, encoder).values()
    )
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    exporter = export.export(
        jax.jit(build_encoder(config, encoder), keep_unused=True),
        platforms=["cpu"],
        disabled_checks=[export.DisabledSafetyCheck.platform()],
    )
    with no_source_locations():
        exported = exporter(weights, tokens, tokens, tokens)
    portable = bytes(exported.mlir_module_serialized)
    program = Program(
        module="encode.stablehlo",
        jax_export="encode.jax_export",
        arguments=_arguments(config, encoder),
        results=[Argument(name="embeddings", dtype="float32", shape=["B", config.hidden])],
        symbols=_SYMBOLS,
        constraints=[],
        layers=config.layers,
        vocab=config.vocab,
        context=config.context,
        stablehlo_version=portable_version(portable),
        jax_version=jax.__version__,
        calling_convention=exported.calling_convention_version,
        platforms=PLATFORMS,
    )
    return write_program(out_dir, program, portable, exported)


def _arguments(config: ModelConfig, encoder: EncoderConfig) -> list[Argument]:
    stored = [
        Argument(name=name, dtype=PROGRAM_TYPES[spec.dtype], shape=list(spec.shape))
        for name, spec in encoder_layout(config, encoder).items()
    ]
    return stored + [Argument(name=name, dtype="int32", shape=["B", "S"]) for name in INPUTS]
