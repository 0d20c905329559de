"""An attempt's part of the engine steps that served it, and what the prompt cache spared it."""

from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import msgspec

from fungible.ledger.activity import CLOCK_SLACK_NS, load_fits, load_steps, load_weights
from fungible.ledger.fit import StepFit
from fungible.ledger.queries import Queryable
from fungible.ledger.step_shares import attempt_of, step_weights

_FS = 10**15
_ROUND = Context(prec=18)


class ExplainedFit(msgspec.Struct, frozen=True, kw_only=True):
    """The coefficients by which a run's steps were shared, in 10^-15 s."""

    run: str
    fit: StepFit
    accepted: bool


class ExplainedSteps(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt had of the steps that it was in.

    Attributes:
        steps: How many.
        prefill, decode, kv: Its tokens in them, summed.
        seconds: How long these steps took.
        share_seconds: The attempt's part of that, rounded for display only.
        fits: Of the runs they belong to.
    """

    steps: int
    prefill: int
    decode: int
    kv: int
    seconds: Decimal
    share_seconds: Decimal
    fits: list[ExplainedFit]


class CacheCredit(msgspec.Struct, frozen=True, kw_only=True):
    """What prompt tokens read from the cache did not cost: `w_in − w_cache_read` for each.

    Attributes:
        tokens: Read from the cache.
        seconds: Accelerator time that running them would have taken more.
        source: The fit or the class weights that say so.
    """

    tokens: int
    seconds: Decimal
    source: str


def explain_steps(
    source: Queryable, row: dict[str, Any], lines: Sequence[dict[str, Any]]
) -> ExplainedSteps | None:
    """The steps of an attempt in the windows of its lines; `None` when it has none.

    Args:
        source: The ledger.
        row: The attempt, of the view `attempts`.
        lines: Its cost lines.
    """
    of_steps = [line for line in lines if line["rule"].startswith("steps")]
    if not of_steps:
        return None
    first = min(row["started_ns"], *(line["window_start_ns"] for line in of_steps))
    last = max(row["ended_ns"], *(line["window_start_ns"] for line in of_steps))
    fits = load_fits(source, row["backend"])
    known = {row["attempt_id"]: row}
    ours = [
        (step, [at for at, name in enumerate(step.requests) if attempt_of(name, known)])
        for step in load_steps(
            source, row["backend"], first - CLOCK_SLACK_NS, last + CLOCK_SLACK_NS,
            naming=row["attempt_id"],
        )
    ]  # fmt: skip
    share = Fraction(0)
    for step, places in ours:
        weights = step_weights(step, fits.get(step.run))
        share += step.duration_ns * Fraction(sum(weights[at] for at in places), sum(weights))
    return ExplainedSteps(
        steps=len(ours),
        prefill=sum(step.prefill[at] for step, places in ours for at in places),
        decode=sum(step.decode[at] for step, places in ours for at in places),
        kv=sum(step.kv[at] for step, places in ours for at in places),
        seconds=_seconds(Fraction(sum(step.duration_ns for step, _ in ours)) * 10**6),
        share_seconds=_seconds(share * 10**6),
        fits=[
            ExplainedFit(run=run, fit=fits[run], accepted=fits[run].accepted)
            for run in sorted({step.run for step, _ in ours})
            if run in fits
        ],
    )


def cache_credit(
    source: Queryable, row: dict[str, Any], steps: ExplainedSteps | None, rule: str
) -> CacheCredit | None:
    """What the prompt cache spared an attempt; `None` when nothing says how much.

    A token that is read from the cache is not run, but attention reads it like any other: by the
    fit it spares exactly the coefficient of prefill.
    """
    tokens = row["in_cache_read"]
    if not tokens:
        return None
    if steps is not None and steps.fits and steps.fits[-1].accepted:
        last = steps.fits[-1]
        return CacheCredit(
            tokens=tokens,
            seconds=_seconds(Fraction(tokens * last.fit.prefill_fs)),
            source=f"fit of {last.run}",
        )
    weights = load_weights(source).get(row["backend"]) if rule == "class" else None
    if weights is None:
        return None
    spared = tokens * max(0, weights.in_uncached - weights.in_cache_read)
    return CacheCredit(tokens=tokens, seconds=_seconds(Fraction(spared)), source="class weights")


def _seconds(fs: Fraction) -> Decimal:
    return _ROUND.divide(Decimal(fs.numerator), Decimal(fs.denominator * _FS))
