"""A budget of repeats per route, so that a dead upstream is not hammered, and their pauses."""

import random
import time
from collections.abc import Callable

BURST = 10.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class RetryBudget:
    """A token bucket that requests fill and repeats (retries, hedges) empty.

    In any time span, repeats are at most `BURST` + `share` × requests + `per_s` × seconds.

    Args:
        share: Repeats allowed per request, such as 0.2.
        per_s: Repeats allowed per second besides, so that little traffic is not left without.
        clock: Seconds, never going back.
    """

    def __init__(
        self, share: float, per_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = share
        self._per_s = per_s
        self._clock = clock
        self._tokens = BURST
        self._at = clock()
        self.refused = 0

    def request(self) -> None:
        """A request came."""
        self._tokens = min(self._tokens + self._share, BURST)

    def spend(self) -> bool:
        """Whether one repeat may be sent now; if so it is paid for."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._at) * self._per_s, BURST)
        self._at = now
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        return True


def pause_s(repeat: int, asked_s: float | None, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the `repeat`-th repeat (1, 2, …), with full jitter.

    `asked_s` is what the backend asked for (`Retry-After`); jitter comes on top of it then, so
    that clients that were sent away together do not come back together.
    """
    spread = min(FIRST_PAUSE_S * 2.0 ** (repeat - 1), LONGEST_PAUSE_S)
    return (asked_s or 0.0) + draw() * spread
