"""What one request was granted, and what it turns out to have used."""

from collections.abc import Callable, Sequence
from typing import Protocol

from fungible.contract.events import AttemptEvent
from fungible.limits.buckets import Hold, Settlement
from fungible.limits.rules import Counted, Need

# The backend refused, or nothing was sent: no provider bills that.
_NEVER_BILLED = frozenset(
    {
        "upstream_rejected",
        "upstream_busy",
        "upstream_misconfigured",
        "upstream_connect_timeout",
    }
)
_UNREACHABLE = "upstream_unreachable"


class Settles(Protocol):
    """Who takes a settlement over; it returns at once."""

    def __call__(self, hold: Hold, settlements: Sequence[Settlement]) -> None:
        """Settle in the background."""
        ...


class Grant:
    """A reservation. It watches the request's attempts and settles once all is over.

    Whoever was granted it calls `finish` exactly when the request has ended, whichever way;
    attempts that end later (those cut off by a client that left) are waited for.

    Attributes:
        headers: The `x-ratelimit-*` headers of the answer.
    """

    def __init__(
        self,
        *,
        hold: Hold,
        counted: Sequence[Counted],
        need: Need,
        headers: dict[str, str],
        price: Callable[[AttemptEvent], Need | None],
        settle: Settles,
    ) -> None:
        self.headers = headers
        self._hold = hold
        self._counted = counted
        self._need = need
        self._price = price
        self._settle = settle
        self._open = 0
        self._began = False
        self._finished = False
        self._tokens = 0
        self._nanos = 0

    def began(self) -> None:
        """An attempt is about to be sent."""
        self._began = True
        self._open += 1

    def ended(self, event: AttemptEvent) -> None:
        """It is over, one way or the other; every attempt counts."""
        self._open -= 1
        used = self._used(event)
        self._tokens += used.tokens
        self._nanos += used.nanos or 0
        self._settle_if_over()

    def finish(self) -> None:
        """The request is over. Without any attempt all of the reservation is released."""
        self._finished = True
        self._settle_if_over()

    def _used(self, event: AttemptEvent) -> Need:
        used = self._price(event)
        if used is None:
            # Nobody knows what it used, but it may be billed: then the estimate stands.
            return Need(0, 0) if _free(event) else self._need
        return used if used.nanos is not None else Need(used.tokens, self._need.nanos)

    def _settle_if_over(self) -> None:
        if not self._finished or self._open:
            return
        used = Need(self._tokens, self._nanos, int(self._began))
        self._settle(
            self._hold,
            [Settlement(item.charge(self._need), item.amount(used)) for item in self._counted],
        )


def _free(event: AttemptEvent) -> bool:
    if event.status != "error":
        return False
    if event.error_code in _NEVER_BILLED:
        return True
    return event.error_code == _UNREACHABLE and not 200 <= event.http_status < 300
