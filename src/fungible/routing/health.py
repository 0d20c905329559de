"""A circuit breaker per backend: what keeps failing is left alone for a while."""

import time
from collections.abc import Callable

TRIP_AFTER = 5
REST_S = 5.0


class Breaker:
    """Opens after `TRIP_AFTER` transient failures in a row; lets one request try after a rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0

    def closed(self) -> bool:
        """Whether requests may be sent. While open, one is let through per rest period."""
        if self._failures < TRIP_AFTER:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + REST_S
        return True

    def succeeded(self) -> None:
        """The backend answered."""
        self._failures = 0

    def failed(self) -> None:
        """The backend failed in a way that another try may not."""
        self._failures += 1
        if self._failures >= TRIP_AFTER:
            self._retry_at = self._clock() + REST_S
