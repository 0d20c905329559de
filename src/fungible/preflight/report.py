"""The report: for every chip whether the artifact compiles, fits, and how fast it could be."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.program import Program, load_program
from fungible.errors import InputError
from fungible.preflight.chips import Chip, Price
from fungible.preflight.compiling import StepCompiler, compiler_name
from fungible.preflight.counts import (
    StepShape,
    cache_bytes,
    count_step,
    decode_shape,
    number_kinds,
    prefill_shape,
    weight_bytes,
)
from fungible.preflight.job import Outcome
from fungible.preflight.records import Phase, Point, Report, Row
from fungible.preflight.roofline import bound_step, floor_usd_per_mtok

_BATCHES = tuple(2**power for power in range(11))
Progress = Callable[[str, int, int], None]


class _Model(msgspec.Struct, frozen=True):
    """What is compiled: the model's shape and one variant's program."""

    config: ModelConfig
    program: Program


def preflight(
    artifact: Path,
    chips: Sequence[Chip],
    compiler: StepCompiler,
    *,
    variant: str,
    batch: int,
    context: int,
    prices: Mapping[str, Price],
    progress: Progress,
) -> Report:
    """Compile the variant's steps for every chip with `compiler`, and bound each.

    Raises:
        ArtifactError: The artifact or the program cannot be read.
        InputError: The sizes do not fit the model, or it does not generate text.
    """
    manifest = load_manifest(artifact)
    model = _Model(manifest.config, load_program(artifact / variant))
    if not (batch >= 1 and 1 <= context <= model.program.context):
        raise InputError(
            f"a batch of {batch} rows of {context} tokens: the model takes at least one row of "
            f"1 to {model.program.context} tokens",
            hint="choose --batch and --context within that",
        )
    shapes = decode_shape(batch, context), prefill_shape(batch, context)
    rows = []
    for at, chip in enumerate(chips):
        progress("compiling", at, len(chips))
        first = compiler.compile(chip, shapes[0])
        # What refuses one step would mostly refuse the other, after the same time.
        second = first if first.why else compiler.compile(chip, shapes[1])
        decode = _phase(chip, model, shapes[0], first)
        prefill = _phase(chip, model, shapes[1], second)
        rows.append(_row(chip, prices.get(chip.target, chip.price), model, decode, prefill))
        progress("compiling", at + 1, len(chips))
    return Report(
        artifact=manifest.name,
        digest=manifest.digest,
        variant=variant,
        batch=batch,
        context=context,
        date=dt.datetime.now(dt.UTC).date(),
        targets=rows,
    )


def variant_folder(artifact: Path, variant: str) -> Path:
    """The folder of a variant that has a program to compile.

    Raises:
        InputError: The variant is not there or has none; lists those that have.
    """
    manifest = load_manifest(artifact)
    if manifest.kind == "encoder":
        raise InputError(
            f"{artifact}: {manifest.name} is an embedding model, which preflight does not cover",
            hint="give a model that generates text",
        )
    compiled = [
        name
        for name, entry in manifest.variants.items()
        if any(file.endswith("/stablehlo.json") for file in entry.files)
    ]
    if variant not in compiled:
        what = "has no StableHLO program" if variant in manifest.variants else "is not there"
        raise InputError(
            f"{artifact}: variant {variant!r} {what}",
            hint=f"variants with a program: {', '.join(compiled) or 'none'}",
        )
    return artifact / variant


def _phase(chip: Chip, model: _Model, shape: StepShape, outcome: Outcome) -> Phase:
    count = count_step(model.config, model.program, shape)
    bound = bound_step(chip, count, number_kinds(model.program))
    return Phase(
        shape=shape,
        why=outcome.why,
        seconds=round(outcome.seconds, 2),
        memory=outcome.memory,
        flops_per_token=count.flops // count.tokens,
        bytes_per_token=count.bytes // count.tokens,
        bound_tokens_per_s=bound.tokens_per_s if bound else None,
        limit=bound.limit if bound else None,
    )


def _row(chip: Chip, price: Price | None, model: _Model, decode: Phase, prefill: Phase) -> Row:
    batch, context = decode.shape.rows, decode.shape.context
    compiles = not (decode.why or prefill.why)
    weights, cache = weight_bytes(model.program), cache_bytes(model.program, batch, context)
    needed = max(_needed(phase, weights, cache) for phase in (decode, prefill))
    available = chip.memory_bytes()
    largest = None
    if available is not None:
        largest = max(0, (available - (needed - cache)) * batch // cache)
    here = _point(chip, price, model, batch, context)
    batches = [size for size in _BATCHES if largest is None or size <= largest]
    curve = [_point(chip, price, model, size, context) for size in batches]
    return Row(
        target=chip.target,
        chip=chip.chip,
        devices=chip.devices,
        compiler=compiler_name(chip),
        compiles=compiles,
        why=decode.why or prefill.why,
        fits=_fits(compiles, needed, available),
        memory_bytes=needed,
        memory_available=available,
        weight_bytes=weights,
        cache_bytes=cache,
        temporary_bytes=decode.memory.temporary,
        largest_batch=largest,
        flops_per_token=decode.flops_per_token,
        bytes_per_token=decode.bytes_per_token,
        bound_tokens_per_s=decode.bound_tokens_per_s,
        bound_tokens_per_s_per_user=here.tokens_per_s_per_user if here else None,
        limit=decode.limit,
        floor_usd_per_mtok=here.usd_per_mtok if here else None,
        price=price,
        decode=decode,
        prefill=prefill,
        curve=[point for point in curve if point],
        sources=chip.sources,
        note=chip.note,
    )


def _fits(compiles: bool, needed: int, available: int | None) -> bool | None:
    """No when even what is known is too much; yes only when all is known."""
    if available is None:
        return None
    if needed > available:
        return False
    return True if compiles else None


def _needed(phase: Phase, weights: int, cache: int) -> int:
    """Bytes on the device while the step runs, as far as they are known.

    Caches are updated in place, so what a compiler does not say about results is nothing.
    """
    memory = phase.memory
    known = (memory.results, memory.temporary, memory.code)
    return (memory.arguments or weights + cache) + sum(size or 0 for size in known)


def _point(
    chip: Chip, price: Price | None, model: _Model, batch: int, context: int
) -> Point | None:
    count = count_step(model.config, model.program, decode_shape(batch, context))
    bound = bound_step(chip, count, number_kinds(model.program))
    if bound is None:
        return None
    floor = floor_usd_per_mtok(chip, bound, price.usd_per_hour) if price else None
    return Point(
        batch=batch,
        tokens_per_s=bound.tokens_per_s,
        tokens_per_s_per_user=bound.tokens_per_s / batch,
        usd_per_mtok=floor,
    )
