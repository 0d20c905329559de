"""Exact money, without a database: units, and how an hour is shared.

Amounts are whole numbers of 10^-18 of the currency (`UNITS` to one), so nothing is rounded
twice. An hour's price is billed for the whole lease and shared like this:

1. The lease is cut into windows of a minute, at minutes of the epoch and at price changes.
   A window costs `cum(end) - cum(start)`, `cum(t)` being the price of the time since the
   lease or the price began, rounded once: so the windows of a lease add up to price × hours.
2. Inside a window each instant's cost is shared equally by the attempts active then; an
   instant without attempts is idle. Equal shares of a fixed cost are its Shapley value.
3. Shares are rounded by the largest remainder: first busy against idle, then among the
   attempts. Attempts plus idle is the window's cost to the last digit, and time that passes
   idle never moves a digit of an attempt's share.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import TypeVar

import msgspec

from fungible.ledger.prices import PriceRow

SCALE = 18
UNITS = 10**SCALE
WINDOW_NS = 60 * 1_000_000_000
HOUR_NS = 3600 * 1_000_000_000
_EXACT = Context(prec=76)
_Name = TypeVar("_Name", bound=Hashable)


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one backend that is paid for: `[started_ns, seen_ns)`."""

    lease_id: str
    backend: str
    started_ns: int
    seen_ns: int


class Busy(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt's time on the backend: `[started_ns, ended_ns)`."""

    attempt_id: str
    started_ns: int
    ended_ns: int


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a lease at one price; `units` is its whole cost in 10^-18."""

    start_ns: int
    end_ns: int
    units: int
    price: PriceRow


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """A window's cost, shared: units per attempt, and units that nobody used."""

    attempts: dict[str, int]
    idle: int


def units_of(price: Decimal) -> int:
    """A price or amount of at most 18 decimal places in 10^-18."""
    return int(_EXACT.scaleb(price, SCALE))


def amount_of(units: int) -> Decimal:
    """Units as an amount with 18 decimal places, exact."""
    return _EXACT.scaleb(Decimal(units), -SCALE)


def windows(
    lease: Lease, prices: Sequence[PriceRow], start_ns: int = 0, end_ns: int | None = None
) -> list[Window]:
    """The windows of a lease that begin in `[start_ns, end_ns)`, oldest first.

    Time without a price has no window: it can't be billed and is not free either.
    """
    found = []
    limit = lease.seen_ns if end_ns is None else min(lease.seen_ns, end_ns)
    for price in sorted(prices, key=lambda row: row.from_ns):
        first = max(lease.started_ns, price.from_ns)
        last = min(lease.seen_ns, price.to_ns)
        at = max(first, start_ns // WINDOW_NS * WINDOW_NS)
        while at < last and at < limit:
            stop = min((at // WINDOW_NS + 1) * WINDOW_NS, last)
            if at >= start_ns:
                found.append(_window(at, stop, first, price))
            at = stop
    return found


def _window(start: int, end: int, since: int, price: PriceRow) -> Window:
    rate = units_of(price.price)
    units = _cumulated(rate, end - since) - _cumulated(rate, start - since)
    return Window(start_ns=start, end_ns=end, units=units, price=price)


def _cumulated(rate: int, elapsed_ns: int) -> int:
    """Cost of the time since the price began, rounded half up (so it never decreases)."""
    return (2 * rate * elapsed_ns + HOUR_NS) // (2 * HOUR_NS)


def touches(window: Window, busy: Busy) -> bool:
    """Whether an attempt is in a window; one that took no time is where it began."""
    return busy.started_ns < window.end_ns and (
        busy.ended_ns > window.start_ns or busy.started_ns >= window.start_ns
    )


def share(window: Window, attempts: Iterable[Busy]) -> Shares:
    """Share a window among the attempts that touch it; the order does not matter.

    An attempt that took no time at all is in it with 0.
    """
    inside = {
        busy.attempt_id: (max(busy.started_ns, window.start_ns), min(busy.ended_ns, window.end_ns))
        for busy in attempts
        if touches(window, busy)
    }
    held, busy_ns = held_ns(inside)
    rate = units_of(window.price.price)
    busy_units = min((2 * rate * busy_ns + HOUR_NS) // (2 * HOUR_NS), window.units)
    exact = {name: time * rate / HOUR_NS for name, time in held.items()}
    return Shares(attempts=_largest_remainder(busy_units, exact), idle=window.units - busy_units)


def held_ns(
    inside: Mapping[_Name, tuple[int, int]],
) -> tuple[dict[_Name, Fraction], int]:
    """What each interval has of the time, in ns, and the time that any had.

    Each instant is shared equally by the intervals `[start, end)` that hold it. `reading` is the
    integral of 1/(intervals open); an interval holds what it grew by.
    """
    edges: dict[int, list[tuple[bool, _Name]]] = {}
    for name, (start, end) in inside.items():
        if start < end:
            edges.setdefault(start, []).append((True, name))
            edges.setdefault(end, []).append((False, name))
    held = dict.fromkeys(inside, Fraction(0))
    opened: dict[_Name, Fraction] = {}
    reading, busy_ns, before = Fraction(0), 0, 0
    for at in sorted(edges):
        if opened:
            reading += Fraction(at - before, len(opened))
            busy_ns += at - before
        before = at
        for starts, name in edges[at]:
            if starts:
                opened[name] = reading
            else:
                held[name] = reading - opened.pop(name)
    return held, busy_ns


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total`, by largest remainder.

    Equal weights without any that is above 0. Of equal remainders the first one is the larger.
    """
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    parts = [total * weight // whole for weight in weights]
    missing = total - sum(parts)
    if missing:
        order = sorted(range(len(weights)), key=lambda at: -(total * weights[at] % whole))
        for at in order[:missing]:
            parts[at] += 1
    return parts


def _largest_remainder(total: int, exact: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers that add up to `total`, each within one of its exact value."""
    shares = {name: value.numerator // value.denominator for name, value in exact.items()}
    missing = total - sum(shares.values())
    if missing:
        order = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
        for name in order[:missing]:
            shares[name] += 1
    return shares
