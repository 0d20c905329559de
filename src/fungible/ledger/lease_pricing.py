"""Prices the windows of one lease: what attempts had of them, and whose the rest is."""

from collections import defaultdict

import msgspec

from fungible.ledger.activity import NO_ACTIVITY, Activity, Weights, load_activity
from fungible.ledger.costing import HOUR_NS, WINDOW_NS, Lease, Window, windows
from fungible.ledger.idle import PLATFORM, UNATTRIBUTED, split_idle
from fungible.ledger.lines import (
    CostKey,
    IdleKey,
    Line,
    append_costs,
    append_idle,
    known_costs,
    known_idle,
)
from fungible.ledger.prices import IdlePolicy, PriceBook
from fungible.ledger.sharing import Shared, share_window
from fungible.ledger.store import Store

HOUR_MINUTES = HOUR_NS // WINDOW_NS
_NO_POLICY = IdlePolicy()


def price_windows(
    store: Store,
    book: PriceBook,
    lease: Lease,
    span: tuple[int, int],
    *,
    known_ns: int,
    weights: Weights | None,
) -> int:
    """Share the windows of a lease that begin in `span`; the number of lines appended.

    Args:
        store: The ledger.
        book: The prices; without one of this backend, lines that there are get withdrawn.
        lease: Whose windows.
        span: `[start, end)` in ns, whole minutes; within one clock hour where the backend has
            headroom, after the hour before it.
        known_ns: Stamped on new lines.
        weights: What tokens of each class cost the backend, if that is known.
    """
    start, end = span
    prices = book.hourly(lease.backend)
    policy = book.idle.get(lease.backend, _NO_POLICY)
    peak = _peak(store, lease, start) if prices and policy.headroom else {}
    costs: dict[CostKey, Line] = {}
    idle: dict[IdleKey, Line] = {}
    priced = windows(lease, prices, start, end)
    activity = load_activity(store, lease.backend, start, end, weights) if priced else NO_ACTIVITY
    for window in priced:
        shared = _shared(window, activity)
        used: defaultdict[str, int] = defaultdict(int)
        for attempt_id, units in shared.attempts.items():
            whose = activity.known[attempt_id].whose
            used[whose.owner] += units
            line = _line(lease, window, units)
            costs[attempt_id, lease.lease_id, window.start_ns] = msgspec.structs.replace(
                line, end_ns=0, rule=shared.rule, fit=shared.fit, whose=whose
            )
        parts = split_idle(window.units, shared.idle, policy, used, peak)
        if shared.unattributed:
            parts[UNATTRIBUTED, PLATFORM] = shared.unattributed
        for (kind, owner), units in parts.items():
            key = (lease.lease_id, window.start_ns, kind, owner)
            idle[key] = _line(lease, window, units)
    before = known_costs(store, lease.lease_id, start, end)
    appended = append_costs(store, costs, before, known_ns)
    before_idle = known_idle(store, lease.lease_id, start, end)
    return appended + append_idle(store, idle, before_idle, known_ns)


def _shared(window: Window, activity: Activity) -> Shared:
    minute = window.start_ns // WINDOW_NS
    return share_window(
        window,
        activity.by_minute.get(minute, []),
        activity.steps.get(minute, []),
        activity.fits,
        activity.known,
    )


def _line(lease: Lease, window: Window, units: int) -> Line:
    return Line(
        backend=lease.backend,
        units=units,
        currency=window.price.currency,
        basis="effective",
        source=window.price.where,
        end_ns=window.end_ns,
    )


def _peak(store: Store, lease: Lease, start_ns: int) -> dict[str, int]:
    """Units by owner in the window of the clock hour before in which attempts cost most.

    Of equal windows the earliest one is the peak.
    """
    hour = start_ns // HOUR_NS * HOUR_NS
    by_window: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for key, line in known_costs(store, lease.lease_id, hour - HOUR_NS, hour).items():
        if not line.withdrawn:
            by_window[key[2]][line.whose.owner] += line.units
    if not by_window:
        return {}
    return by_window[max(by_window, key=lambda at: (sum(by_window[at].values()), -at))]
