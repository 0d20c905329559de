"""`stablehlo.json`: what a StableHLO program takes and gives, for hosts with or without JAX."""

from pathlib import Path

import msgspec

from fungible.errors import ArtifactError

PROGRAM = "stablehlo.json"
# openxla.org/stablehlo/compatibility; docs.jax.dev/en/latest/export, "Compatibility guarantees".
COMPATIBILITY = (
    "StableHLO portable artifact: read by releases up to 5 years newer and 2 years older; "
    "jax.export wrapper: by JAX up to 6 months newer and 3 weeks older"
)


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """One argument or result; sizes are numbers or symbols of the program."""

    name: str
    dtype: str
    shape: list[int | str]


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One exported program.

    Attributes:
        module: File with the StableHLO portable artifact.
        jax_export: File with the same module in `jax.export`'s wrapper.
        arguments: In order; in the wrapper the weights, the keys and the values are one tuple
            each. Those named like a tensor of `model.safetensors` are weights.
        results: In order; `keys.N` and `values.N` may alias the arguments of that name.
        symbols: Symbol -> meaning. The portable module takes none of them as arguments: they
            follow from the shapes.
        constraints: What the symbols must satisfy.
        layers: Number of key and of value caches.
        vocab: Logits per row.
        context: Longest sequence that the model was trained for, in tokens.
        stablehlo_version: Oldest StableHLO that reads the module.
        jax_version: JAX that exported it.
        calling_convention: Version of `jax.export`'s calling convention.
        platforms: Platforms that the module was exported for: it is the same for all of them.
        compatibility: How long other releases read it, as their makers state it.
    """

    format: int = 1
    module: str
    jax_export: str
    arguments: list[Argument]
    results: list[Argument]
    symbols: dict[str, str]
    constraints: list[str]
    layers: int
    vocab: int
    context: int
    stablehlo_version: str
    jax_version: str
    calling_convention: int
    platforms: tuple[str, ...] = ("cpu",)
    compatibility: str = COMPATIBILITY


def load_program(folder: Path) -> Program:
    """The program of a variant's folder.

    Raises:
        ArtifactError: There is none, or its description is malformed.
    """
    path = folder / PROGRAM
    again = "build the artifact again with `fungible artifact build`"
    try:
        program = msgspec.json.decode(path.read_bytes(), type=Program)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}", hint=again) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: {error}", hint=again) from error
    if program.format != 1:
        raise ArtifactError(f"{path}: format {program.format} is not known", hint=again)
    return program


def portable_version(portable: bytes) -> str:
    """The StableHLO version that the bytecode's header names, such as `1.15.0`."""
    producer = portable[4:].split(b"\0", 1)[0]
    return producer.decode(errors="replace").rpartition("_v")[2]
