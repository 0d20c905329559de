"""A circuit breaker per backend: what keeps failing is left alone for a while.

It opens after `TRIP_AFTER` transient failures in a row, or when at least `ERROR_SHARE` of the
last `WINDOW` outcomes failed (of `MIN_OUTCOMES` or more, none older than `WINDOW_S`). After a
rest one request tries (half-open); its first token closes the breaker, its failure opens it
for twice as long, up to `LONGEST_REST_S`.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

TRIP_AFTER = 5
WINDOW = 50
WINDOW_S = 30.0
MIN_OUTCOMES = 20
ERROR_SHARE = 0.5
REST_S = 5.0
LONGEST_REST_S = 60.0

State = Literal["closed", "resting", "open", "half_open"]


class Breaker:
    """Whether a backend may be asked. Not thread-safe; every method is a few instructions.

    Who was let through says how it went, exactly once: `succeeded`, `failed` or `abandoned`;
    `answered` may come before, at the first token.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_row = 0
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=WINDOW)
        self._failed = 0
        self._open = False
        self._probing = False
        self._rest_s = REST_S
        self._retry_at = 0.0
        self.trips = 0

    @property
    def state(self) -> State:
        """`half_open`: one request tries, or may try, now. `resting`: it asked to be left alone."""
        if not self._open:
            return "closed" if self.ready() else "resting"
        return "half_open" if self._probing or self._clock() >= self._retry_at else "open"

    def ready(self) -> bool:
        """Whether `closed` would let a request through; claims nothing."""
        if not self._open and self._retry_at == 0.0:
            return True
        return not self._probing and self._clock() >= self._retry_at

    def closed(self) -> bool:
        """Whether a request may be sent. While half-open, the first to ask is the one probe."""
        if not self.ready():
            return False
        if self._open:
            self._probing = True
        else:
            self._retry_at = 0.0
        return True

    def rest(self, seconds: float) -> None:
        """Leave the backend alone for so long because it asked for it (`Retry-After`)."""
        until = self._clock() + min(seconds, LONGEST_REST_S)
        self._retry_at = max(self._retry_at, until)

    def answered(self) -> None:
        """A first token came: enough to let others in again; the outcome is still to come."""
        if self._probing:
            self._close()

    def succeeded(self) -> None:
        """An answer came to its end."""
        self._in_row = 0
        if self._probing:
            self._close()
        if self._failed:  # a window without failures need not be kept
            self._note(failed=False)

    def failed(self) -> None:
        """The backend failed in a way that another try may not."""
        self._in_row += 1
        self._note(failed=True)
        if self._probing:
            self._trip(min(2 * self._rest_s, LONGEST_REST_S))
        elif not self._open and (self._in_row >= TRIP_AFTER or self._too_many()):
            self._trip(REST_S)

    def abandoned(self) -> None:
        """The request ended without a word about the backend, such as a client that left."""
        self._probing = False

    def _note(self, *, failed: bool) -> None:
        now = self._clock()
        window = self._outcomes
        while window and (len(window) == WINDOW or window[0][0] < now - WINDOW_S):
            self._failed -= window.popleft()[1]
        window.append((now, failed))
        self._failed += failed

    def _too_many(self) -> bool:
        count = len(self._outcomes)
        return count >= MIN_OUTCOMES and self._failed >= ERROR_SHARE * count

    def _trip(self, rest_s: float) -> None:
        self._open, self._probing = True, False
        self._rest_s = rest_s
        self.trips += 1
        self._retry_at = max(self._retry_at, self._clock() + rest_s)

    def _close(self) -> None:
        self._open, self._probing = False, False
        self._rest_s, self._retry_at, self._in_row = REST_S, 0.0, 0
        self._outcomes.clear()
        self._failed = 0
