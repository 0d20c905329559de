"""When requests are due, and how bursty they are."""

import math
import random
from collections.abc import Sequence
from itertools import pairwise

from fungible.bench.trace import Trace
from fungible.errors import InputError


def offsets(trace: Trace, speed: float = 1.0) -> list[float]:
    """Seconds after the start at which each request is due; `speed` 2 halves every wait.

    Raises:
        InputError: `speed` is not a positive number.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise InputError(f"speed is {speed}; it must be a positive number")
    first = trace.rows[0].timestamp
    return [(row.timestamp - first) / 1000.0 / speed for row in trace.rows]


def burstiness(due: Sequence[float]) -> float:
    """Coefficient of variation of the gaps: 0 for a metronome, 1 for Poisson, more for bursts."""
    gaps = [after - before for before, after in pairwise(due)]
    if not gaps or not (mean := math.fsum(gaps) / len(gaps)):
        return 0.0
    variance = math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    return math.sqrt(variance) / mean


def gamma_offsets(count: int, *, rate: float, cv: float, seed: int) -> list[float]:
    """`count` synthetic arrivals (s) at `rate` per second, gaps of a gamma law with that `cv`."""
    rng = random.Random(seed)  # noqa: S311  # not a secret
    shape = 1.0 / (cv * cv)
    due = [0.0]
    while len(due) < count:
        due.append(due[-1] + rng.gammavariate(shape, 1.0 / (rate * shape)))
    return due
