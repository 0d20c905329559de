"""What a StableHLO program is made of, read from the module itself. Needs jaxlib, not JAX."""

from collections import Counter
from pathlib import Path

import msgspec
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy, stablehlo

from fungible.artifacts.program import PROGRAM, load_program, portable_version
from fungible.errors import ArtifactError

# Refuses sizes that the program was not exported for; every reader of StableHLO drops it.
ALLOWED_CALLS = frozenset({"shape_assertion"})
_CALL = "stablehlo.custom_call"
_DIALECTS = ("builtin.", "func.", "stablehlo.")


class ProgramFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One variant's StableHLO program.

    Attributes:
        stablehlo_version: Oldest StableHLO that reads it, as the module's header says.
        jax_version: JAX that exported it.
        calling_convention: Version of `jax.export`'s calling convention.
        platforms: Platforms that the module is the same for.
        operators: Operation -> how often it is there.
        custom_calls: Target -> how often it is called.
        other_calls: Targets beyond `ALLOWED_CALLS` and operations of other dialects; a portable
            program has none.
        compatibility: How long other releases read it, as their makers state it.
    """

    stablehlo_version: str
    jax_version: str
    calling_convention: int
    platforms: tuple[str, ...]
    operators: dict[str, int]
    custom_calls: dict[str, int]
    other_calls: list[str]
    compatibility: str


def program_facts(folder: Path) -> ProgramFacts | None:
    """Facts of the program in a variant's folder; `None` if it has none. No weights are read.

    Raises:
        ArtifactError: The module or its description cannot be read.
    """
    if not (folder / PROGRAM).exists():
        return None
    program = load_program(folder)
    path = folder / program.module
    try:
        portable = path.read_bytes()
        operators, calls = _count(portable)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable StableHLO module: {error}",
            hint="check the files with `fungible artifact verify`",
        ) from error
    foreign = sorted(name for name in operators if not name.startswith(_DIALECTS))
    return ProgramFacts(
        stablehlo_version=portable_version(portable),
        jax_version=program.jax_version,
        calling_convention=program.calling_convention,
        platforms=program.platforms,
        operators=dict(sorted(operators.items())),
        custom_calls=dict(sorted(calls.items())),
        other_calls=sorted(set(calls) - ALLOWED_CALLS) + foreign,
        compatibility=program.compatibility,
    )


def _count(portable: bytes) -> tuple[Counter[str], Counter[str]]:
    """Operations and targets of custom calls.

    Raises:
        ValueError: It is no StableHLO portable artifact that the installed jaxlib reads.
    """
    operators: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        operators[operation.name] += 1
        if operation.name == _CALL:
            calls[ir.StringAttr(operation.attributes["call_target_name"]).value] += 1
        return ir.WalkResult.ADVANCE

    with ir.Context() as context:
        stablehlo.register_dialect(context)
        # Annotations of sharding: JAX can read them, other compilers may not; see `_DIALECTS`.
        sdy.register_dialect(context)
        # Taken here, or MLIR writes them to standard error beside the one error that we raise.
        context.attach_diagnostic_handler(lambda _: True)
        module = stablehlo.deserialize_portable_artifact(context, portable)
        module.operation.walk(visit)
    return operators, calls
