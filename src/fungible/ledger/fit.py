"""What a step costs by what is in it: non-negative least squares, exact.

`seconds = step + Σ over its requests (prefill·α + decode·β + kv·δ)`, all four at least 0. The
best fit with some coefficients held at 0 is the ordinary one on the others, so with four of them
all fifteen are solved, in rational numbers, and the best that is nowhere negative is taken
(Lawson and Hanson, 1974, chapter 23, whose search this replaces by looking at everything).
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations

import msgspec

# Below, what is in a step says too little about how long it takes.
LEAST_R2 = 0.5
FS_PER_NS = 1_000_000
_TERMS = 4


class StepFit(msgspec.Struct, frozen=True, kw_only=True):
    """The four coefficients in 10^-15 s, and how well they explain the steps' durations.

    Attributes:
        step_fs: Of a step, whatever is in it.
        prefill_fs: Of each prompt token run.
        decode_fs: Of each token decoded.
        kv_fs: Of each token that attention read.
        r2: 1 is exact, 0 no better than the mean.
        samples: Steps behind it.
    """

    step_fs: int
    prefill_fs: int
    decode_fs: int
    kv_fs: int
    r2: float
    samples: int

    @property
    def accepted(self) -> bool:
        """Whether steps are shared by it; otherwise their requests share them equally."""
        return self.r2 >= LEAST_R2


def fit_steps(samples: Iterable[tuple[int, int, int, int]]) -> StepFit | None:
    """The best fit to steps given as (duration in ns, prefill, decode and kv tokens).

    The order does not matter. `None` without any step.
    """
    return fit_stretches(
        (duration, 1, prefill, decode, kv) for duration, prefill, decode, kv in samples
    )


def fit_stretches(stretches: Iterable[tuple[int, int, int, int, int]]) -> StepFit | None:
    """The same for stretches of busy time, given as (ns, steps, prefill, decode and kv tokens)."""
    rows = [(*contents, duration) for duration, *contents in stretches]
    if not rows:
        return None
    columns = list(zip(*rows, strict=True))
    products = [
        [sum(a * b for a, b in zip(one, two, strict=True)) for two in columns] for one in columns
    ]
    found, residual = _best(products)
    total = Fraction(products[4][4]) - Fraction(sum(columns[4]) ** 2, len(rows))
    r2 = 1 - residual / total if total else Fraction(residual == 0)
    step, prefill, decode, kv = (round(value * FS_PER_NS) for value in found)
    return StepFit(
        step_fs=step,
        prefill_fs=prefill,
        decode_fs=decode,
        kv_fs=kv,
        r2=float(r2),
        samples=len(rows),
    )


def _best(products: Sequence[Sequence[int]]) -> tuple[list[Fraction], Fraction]:
    """Coefficients and the sum of squares they leave, from the products of all columns."""
    target = products[_TERMS]
    best = [Fraction(0)] * _TERMS
    least = Fraction(target[_TERMS])
    for size in range(1, _TERMS + 1):
        for kept in combinations(range(_TERMS), size):
            solved = _solve(
                [[Fraction(products[row][column]) for column in (*kept, _TERMS)] for row in kept]
            )
            if solved is None or min(solved) < 0:
                continue
            explained = sum(
                (value * target[at] for at, value in zip(kept, solved, strict=True)), Fraction(0)
            )
            residual = target[_TERMS] - explained
            if residual < least:
                least = residual
                best = [Fraction(0)] * _TERMS
                for at, value in zip(kept, solved, strict=True):
                    best[at] = value
    return best, least


def _solve(rows: list[list[Fraction]]) -> list[Fraction] | None:
    """Gauss-Jordan on an augmented matrix; `None` when it is singular."""
    size = len(rows)
    for at in range(size):
        pivot = next((row for row in range(at, size) if rows[row][at]), None)
        if pivot is None:
            return None
        rows[at], rows[pivot] = rows[pivot], rows[at]
        rows[at] = [value / rows[at][at] for value in rows[at]]
        for other in range(size):
            if other != at and rows[other][at]:
                factor = rows[other][at]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[at], strict=True)]
    return [row[size] for row in rows]
