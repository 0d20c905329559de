"""What a request would cost where, near enough to choose by. Money itself is the ledger's.

By the token: the price sheet's prices of now, times the estimated shape of the request. By
the hour: the price over the tokens that the backend gave per busy second lately, as this
process saw it; before anything was seen it counts as free, since the hour is paid anyway. A
backend without any price is taken last: unknown is not zero.
"""

import math
import time
from collections.abc import Callable
from typing import Any

from fungible.contract.events import AttemptEvent
from fungible.contract.inference import InferenceRequest
from fungible.ledger.prices import PriceBook
from fungible.routing.place import Place

USUAL_OUTPUT = 256
CHARS_PER_TOKEN = 4
_HOLD_S = 60.0
_FORGET_S = 600.0


class Spend:
    """Ranks places by price. Prices are looked up again every minute."""

    def __init__(self, book: PriceBook, clock: Callable[[], float] = time.time) -> None:
        self._book = book
        self._clock = clock
        self._prices: dict[str, tuple[float, float, float]] = {}
        self._until = 0.0
        self._tokens: dict[str, tuple[float, float]] = {}

    def note(self, place: Place, row: AttemptEvent) -> None:
        """What a backend has given: tokens, and how long it was busy meanwhile."""
        leaves = (row.in_uncached, row.in_cache_read, row.out_visible, row.out_reasoning)
        tokens = float(sum(leaf or 0 for leaf in leaves))
        if not tokens:
            return
        before, since = self._tokens.get(place.name, (0.0, 0.0))
        busy = place.slots.busy_s()
        if busy - since > _FORGET_S:  # half of what is long ago
            before, since = before / 2, since + (busy - since) / 2
        self._tokens[place.name] = (before + tokens, since)

    def of(self, place: Place, request: InferenceRequest) -> float:
        """An estimate for this request in the sheet's currency; infinite when unknown."""
        into, out = shape(request.body)
        hourly, price_in, price_out = self._now(place.name)
        if not math.isnan(hourly):
            tokens, since = self._tokens.get(place.name, (0.0, 0.0))
            busy = place.slots.busy_s() - since
            return hourly / 3600 * busy / tokens * (into + out) if tokens else 0.0
        return into * price_in + out * price_out

    def _now(self, name: str) -> tuple[float, float, float]:
        """Price per hour (NaN if there is none) and per token in and out (infinite if none)."""
        now = self._clock()
        if now >= self._until:
            self._prices.clear()
            self._until = now + _HOLD_S
        found = self._prices.get(name)
        if found is None:
            at_ns = int(now * 1e9)
            hours = [row for row in self._book.hourly(name) if row.covers(at_ns)]
            leaves = self._book.tokens(name, at_ns)
            into, out = leaves.get("in_uncached"), leaves.get("out_visible")
            found = (
                float(hours[-1].price) if hours else math.nan,
                float(into.price) / 1e6 if into else math.inf,
                float(out.price) / 1e6 if out else math.inf,
            )
            self._prices[name] = found
        return found


def shape(body: dict[str, Any]) -> tuple[int, int]:
    """Tokens in and out that a request is likely to take; at least one of each."""
    chars = len(str(body.get("system") or body.get("instructions") or ""))
    turns = body.get("messages") or body.get("input") or body.get("prompt") or ""
    if isinstance(turns, str):
        chars += len(turns)
    elif isinstance(turns, list):
        for turn in turns:
            content = turn.get("content") if isinstance(turn, dict) else turn
            chars += len(content) if isinstance(content, str) else len(str(content))
    limits = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    asked = next((body[name] for name in limits if isinstance(body.get(name), int)), None)
    out = min(asked, 4 * USUAL_OUTPUT) if asked else USUAL_OUTPUT
    return max(chars // CHARS_PER_TOKEN, 1), max(out, 1)
