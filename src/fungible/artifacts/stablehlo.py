"""StableHLO programs of a model: the forward step exported once, run anywhere by PJRT.

Three files beside the weights, which the program takes as arguments:

- `step.stablehlo`: a StableHLO portable artifact (VHLO bytecode; openxla.org/stablehlo,
  "Compatibility"), for IREE, libtpu and any other compiler;
- `step.jax_export`: the same module in `jax.export`'s wrapper, which also carries the
  argument tree;
- `stablehlo.json`: a `Program`, so that a host without JAX knows what to pass.

The module names no platform and calls nothing outside the StableHLO opset except
`shape_assertion`, which refuses sizes that the program was not exported for. It is therefore
the same for every platform; `PLATFORMS` are those for which the tests check that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
from jax import export

from fungible.artifacts.decoder_step import build_step
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.program import PROGRAM, Argument, Program, portable_version
from fungible.artifacts.step_weights import FloatStepWeights, StepWeights
from fungible.artifacts.tensors import PROGRAM_TYPES

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_SYMBOLS = "B, S, N, C, P"
_CONSTRAINTS = ("C >= P", "C >= S", "N >= B")
_MEANING = {
    "B": "rows of this step",
    "S": "tokens per row",
    "N": "slots of the cache",
    "C": "tokens per slot",
    "P": "cached positions attended to",
}


def export_programs(
    config: ModelConfig, out_dir: Path, weights: StepWeights | None = None
) -> list[str]:
    """Write the step's program for every deployment size; the names of the files written.

    Args:
        config: The model's shape; its values are not needed.
        out_dir: The variant's folder, such as `f32`, where `model.safetensors` is.
        weights: How the variant stores them; float32 by default.
    """
    weights = weights or FloatStepWeights(config)
    exported = export_step(config, weights=weights)
    portable = bytes(exported.mlir_module_serialized)
    program = Program(
        module="step.stablehlo",
        jax_export="step.jax_export",
        arguments=_arguments(config, weights),
        results=_results(config, weights),
        symbols=_MEANING,
        constraints=list(_CONSTRAINTS),
        layers=config.layers,
        vocab=config.vocab,
        context=config.context,
        stablehlo_version=portable_version(portable),
        jax_version=jax.__version__,
        calling_convention=exported.calling_convention_version,
        platforms=PLATFORMS,
    )
    return write_program(out_dir, program, portable, exported)


def write_program(
    out_dir: Path, program: Program, portable: bytes, exported: export.Exported
) -> list[str]:
    """Write the portable module, `jax.export`'s wrapper and their description; the files' names."""
    contents = {
        program.module: portable,
        program.jax_export: bytes(exported.serialize()),
        PROGRAM: msgspec.json.format(msgspec.json.encode(program), indent=1) + b"\n",
    }
    for name, data in contents.items():
        (out_dir / name).write_bytes(data)
    return list(contents)


def export_step(
    config: ModelConfig, platform: str = "cpu", weights: StepWeights | None = None
) -> export.Exported:
    """The exported step with symbolic sizes; the same module whatever `platform` is.

    Exporting for one platform keeps the module free of the per-platform branches that a
    multi-platform export adds to each product; the platform check is switched off instead.
    """
    weights = weights or FloatStepWeights(config)
    sizes = export.symbolic_shape(_SYMBOLS, constraints=_CONSTRAINTS)
    symbols = dict(zip(_MEANING, sizes, strict=True))

    def shaped(argument: Argument) -> jax.ShapeDtypeStruct:
        shape = tuple(symbols.get(str(size), size) for size in argument.shape)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(argument.dtype))

    flat = [shaped(argument) for argument in _arguments(config, weights)]
    first = len(weights.arguments())
    caches = first + config.layers, first + 2 * config.layers
    grouped = (
        tuple(flat[:first]),
        tuple(flat[first : caches[0]]),
        tuple(flat[caches[0] : caches[1]]),
        *flat[caches[1] :],
    )
    exporter = export.export(
        jax.jit(build_step(config, weights)),
        platforms=[platform],
        disabled_checks=[export.DisabledSafetyCheck.platform()],
    )
    with no_source_locations():
        exported: export.Exported = exporter(*grouped)
    return exported


@contextmanager
def no_source_locations() -> Iterator[None]:
    """Keep this machine's file names out of the module: its digest is the same anywhere."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _arguments(config: ModelConfig, weights: StepWeights) -> list[Argument]:
    stored = [
        Argument(name=name, dtype=PROGRAM_TYPES[spec.dtype], shape=list(spec.shape))
        for name, spec in weights.arguments().items()
    ]
    inputs: dict[str, list[int | str]] = {
        "tokens": ["B", "S"],
        "slots": ["B"],
        "starts": ["B"],
        "counts": ["B"],
        "window": ["P"],
    }
    steps = [Argument(name=name, dtype="int32", shape=shape) for name, shape in inputs.items()]
    return stored + _caches(config, weights) + steps


def _results(config: ModelConfig, weights: StepWeights) -> list[Argument]:
    logits = Argument(name="logits", dtype="float32", shape=["B", config.vocab])
    return [logits, *_caches(config, weights)]


def _caches(config: ModelConfig, weights: StepWeights) -> list[Argument]:
    shape: list[int | str] = ["N", config.kv_heads, "C", config.head_dim]
    return [
        Argument(name=f"{kind}.{layer}", dtype=weights.cache_dtype, shape=shape)
        for kind in ("keys", "values")
        for layer in range(config.layers)
    ]
