"""The most tokens per second that a chip's memory and arithmetic allow (Williams et al., 2009)."""

from typing import Literal

import msgspec

from fungible.preflight.chips import Chip
from fungible.preflight.counts import StepCount

Limit = Literal["memory", "compute"]


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """No implementation of the step is faster than this on one device.

    Attributes:
        seconds: Least time of a step.
        tokens_per_s: Over all rows.
        limit: Which of the two it is that limits.
    """

    seconds: float
    tokens_per_s: float
    limit: Limit


def bound_step(chip: Chip, count: StepCount, kinds: set[str]) -> Bound | None:
    """The bound of a step whose products run in one of `kinds`; `None` when unknown.

    It needs the bandwidth. Where a peak is not published the arithmetic is taken as free, so
    the figure stays an upper bound.
    """
    if chip.bandwidth_gb_s is None:
        return None
    memory = count.bytes * chip.devices / (chip.bandwidth_gb_s * 1e9)
    peak = peak_flops(chip, kinds)
    compute = count.flops / peak if peak else 0.0
    seconds = max(memory, compute)
    limit: Limit = "memory" if memory >= compute else "compute"
    return Bound(seconds=seconds, tokens_per_s=count.tokens / seconds, limit=limit)


def peak_flops(chip: Chip, kinds: set[str]) -> float | None:
    """Operations per second of one device in the fastest of `kinds`; `None` when unknown.

    Where float32 is not published, the peak in bfloat16 stands in: it is never less.
    """
    peaks = chip.peak_tflops
    found = []
    for kind in kinds:
        peak = peaks.get(kind)
        if peak is None and kind == "f32":
            peak = peaks.get("bf16")
        if peak is None:
            return None
        found.append(peak * 1e12 / chip.devices)
    return max(found, default=None)


def floor_usd_per_mtok(chip: Chip, bound: Bound, usd_per_hour: float) -> float:
    """USD per million tokens if every step ran at its bound, on one device of the chip."""
    return usd_per_hour / chip.devices / 3600 / bound.tokens_per_s * 1e6
