"""Which step sizes XLA compiles: few enough to compile soon, close enough to waste little."""

from collections.abc import Iterator
from typing import NamedTuple

_LENGTHS = (1, 16, 64, 128)
_LONG_LENGTHS = (1, 64, 256, 1024)
_FIRST_WINDOW = 256
# A step reads every weight once, whatever its length; on the CPUs measured that takes as
# long as this many tokens of arithmetic.
_STEP_COST = 32


class StepShape(NamedTuple):
    """Rows, tokens per row, and cached positions attended to."""

    rows: int
    length: int
    window: int

    def covers(self, other: "StepShape") -> bool:
        """Whether a step of this size can do the other's work."""
        same_length = self.length == other.length
        return same_length and self.rows >= other.rows and self.window >= other.window


class ShapePlan:
    """The sizes for a cache of `slots` times `context` tokens.

    Args:
        slots: Requests at once.
        context: Tokens per slot.
        accelerator: The device does hundreds of tokens of arithmetic while it reads the weights.
    """

    def __init__(self, slots: int, context: int, *, accelerator: bool = False) -> None:
        self.context = context
        lengths = _LONG_LENGTHS if accelerator else _LENGTHS
        self.lengths = tuple(length for length in lengths if length <= context)
        # Two rows cost nearly what four cost: a product of a few rows packs its weights first.
        self.rows = tuple(_doubling(4, slots, first=1))
        self.windows = tuple(_doubling(_FIRST_WINDOW, context))

    def fit(self, rows: int, length: int, end: int) -> StepShape:
        """The smallest size for `rows` rows of `length` tokens that end before position `end`."""
        return StepShape(
            next(size for size in self.rows if size >= rows),
            length,
            next(size for size in self.windows if size >= end),
        )

    def chunks(self, start: int, count: int) -> list[int]:
        """Step lengths that append `count` tokens at position `start` at the least cost.

        The last may be longer than what is left, as far as the cache reaches.
        """
        cheapest: list[tuple[int, list[int]]] = [(0, [])]
        for left in range(1, count + 1):
            room = self.context - start - (count - left)
            options = [
                (length + _STEP_COST + cheapest[max(left - length, 0)][0], length)
                for length in self.lengths
                if length <= room
            ]
            cost, length = min(options)
            cheapest.append((cost, [length, *cheapest[max(left - length, 0)][1]]))
        return cheapest[count][1]

    def first(self) -> list[StepShape]:
        """What nearly every request needs: compiled before the first one."""
        window, longest = self.windows[0], max(n for n in self.lengths if n <= 64)
        sizes = [(1, longest), (1, 1), (self.rows[-1], 1)]
        return list(dict.fromkeys(StepShape(rows, length, window) for rows, length in sizes))

    def all(self) -> list[StepShape]:
        """Every size, the short windows first."""
        sizes = [(rows, 1) for rows in self.rows] + [(1, length) for length in self.lengths[1:]]
        return [StepShape(*size, window) for window in self.windows for size in sizes]


def _doubling(start: int, last: int, first: int | None = None) -> Iterator[int]:
    if first is not None and first < min(start, last):
        yield first
    while start < last:
        yield start
        start *= 2
    yield last
