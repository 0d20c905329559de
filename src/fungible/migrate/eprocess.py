"""One boundary, two bets: is the candidate's mean loss below the margin, or above it?

`x = score(candidate) − score(reference)` lies in [−1, 1] and the boundary is at `−margin`.
Two gamblers bet against opposite sides of it (Waudby-Smith & Ramdas, "Estimating means of
bounded random variables by betting", JRSS-B 2024, arXiv 2010.09686):

- `E1` bets against "mean x <= −margin". Large: the candidate held.
- `E2` bets against "mean x >= −margin". Large: the candidate lost more than the margin.

Each starts with capital 1, spread over a geometric grid of bets `λ`, and is multiplied by
`1 + λ·(±(x + margin))`. Under its null hypothesis that capital has expectation at most 1, so by
Ville's inequality it reaches `1/α` with probability at most `α`, at any number of looks. Both
share the line, so they cannot both be convinced for long.

Half of the capital is on the largest bet: a candidate that never fails then needs 73 pairs
at margin 0.05 and 36 at margin 0.10 to reach 20 (132 and 64 when one pair fails).
"""

import math

import msgspec

_FRACTIONS = tuple(0.95 * 0.5**k for k in range(5))
_TOTAL = sum(0.5**k for k in range(5))
_LOG_CAPITAL = tuple(math.log(0.5**k / _TOTAL) for k in range(5))
_LARGEST_LOG = 700.0


class BoundaryTest(msgspec.Struct, frozen=True, kw_only=True):
    """Both e-processes after some pairs: all that has to be kept to go on later.

    Products do not depend on the order of their factors, so pairs may arrive in any order.

    Attributes:
        margin: Largest loss that still counts as held, in (0, 1).
        pairs: Number of values seen.
        promote: Log-wealth of each bet of E1, its share of the capital included.
        rollback: The same of E2.
    """

    margin: float
    pairs: int = 0
    promote: tuple[float, ...] = _LOG_CAPITAL
    rollback: tuple[float, ...] = _LOG_CAPITAL

    def __post_init__(self) -> None:
        """Refuse a margin that no bet fits."""
        if not 0.0 < self.margin < 1.0:
            raise ValueError(f"margin is {self.margin}; it must be in (0, 1)")

    def update(self, x: float) -> "BoundaryTest":
        """The test after one more paired difference `x` in [−1, 1]."""
        if not -1.0 <= x <= 1.0:
            raise ValueError(f"paired difference is {x}; it must be in [-1, 1]")
        gain = x + self.margin
        # The largest bet that cannot lose everything at the worst possible x.
        up, down = 1.0 / (1.0 - self.margin), 1.0 / (1.0 + self.margin)
        return BoundaryTest(
            margin=self.margin,
            pairs=self.pairs + 1,
            promote=_bet(self.promote, up, gain),
            rollback=_bet(self.rollback, down, -gain),
        )

    @property
    def e_promote(self) -> float:
        """E1: evidence that the loss is smaller than the margin; capped at e^700."""
        return _total(self.promote)

    @property
    def e_rollback(self) -> float:
        """E2: evidence that the loss is larger than the margin; capped at e^700."""
        return _total(self.rollback)


def _bet(wealth: tuple[float, ...], largest: float, gain: float) -> tuple[float, ...]:
    return tuple(
        log + math.log1p(fraction * largest * gain)
        for log, fraction in zip(wealth, _FRACTIONS, strict=True)
    )


def _total(wealth: tuple[float, ...]) -> float:
    top = max(wealth)
    total = top + math.log(sum(math.exp(log - top) for log in wealth))
    return math.exp(min(total, _LARGEST_LOG))


def pairs_needed(margin: float, threshold: float) -> int:
    """How many pairs without any difference take E1 to `threshold`."""
    test = BoundaryTest(margin=margin)
    while test.e_promote < threshold:
        test = test.update(0.0)
    return test.pairs
