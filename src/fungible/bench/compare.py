"""Two backends on one trace, in interleaved blocks, so that drift of the machine cancels."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import msgspec

from fungible.bench.runner import BenchResult, saturate
from fungible.bench.trace import Trace
from fungible.errors import InputError, UnavailableError
from fungible.routing.dispatch import Dispatcher

# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """B's rate over A's: geometric mean over blocks with its 95 % interval."""

    value: float
    low: float
    high: float
    blocks: list[float]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Output tokens per second of both, at the same concurrency, and their ratio."""

    a: str
    b: str
    concurrency: int
    a_tokens_per_s: float
    b_tokens_per_s: float
    ratio: Ratio


async def compare(
    dispatcher: Dispatcher,
    trace: Trace,
    a: str,
    b: str,
    *,
    model: str,
    run_id: str,
    blocks: int = 4,
    concurrency: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Saturate A and B by turns (A B, B A, A B, …) and pair their rates block by block.

    Raises:
        InputError: Fewer than 2 or more than 13 blocks.
        UnavailableError: A backend is not configured, or failed a whole turn.
    """
    if not 2 <= blocks <= len(_T95) + 1:
        raise InputError(f"blocks is {blocks}; it must be in [2, {len(_T95) + 1}]")
    rates: dict[str, list[float]] = {a: [], b: []}
    for block in range(blocks):
        for name in (a, b) if block % 2 == 0 else (b, a):
            result = await saturate(
                dispatcher, trace, name, concurrency=concurrency, model=model, run_id=run_id
            )
            rates[name].append(_rate(result))
            if progress is not None:
                progress(len(rates[a]) + len(rates[b]), 2 * blocks)
    return Comparison(
        a=a,
        b=b,
        concurrency=concurrency,
        a_tokens_per_s=fmean(rates[a]),
        b_tokens_per_s=fmean(rates[b]),
        ratio=paired_ratio(rates[a], rates[b]),
    )


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """The ratio b / a from paired, positive values; a t interval on the logarithms."""
    logs = [math.log(after / before) for before, after in zip(a, b, strict=True)]
    centre = fmean(logs)
    half = _T95[len(logs) - 2] * stdev(logs) / math.sqrt(len(logs))
    return Ratio(
        value=math.exp(centre),
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        blocks=[math.exp(log) for log in logs],
    )


def _rate(result: BenchResult) -> float:
    if not result.valid or not result.summary.tokens_per_s:
        why = "; ".join(result.invalid) or "it reports no output tokens"
        raise UnavailableError(f"backend {result.backend}: {why}")
    return result.summary.tokens_per_s
