"""Money is conserved to the last digit, whatever the attempts and leases look like."""

import random
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.ledger.costing import (
    HOUR_NS,
    WINDOW_NS,
    Busy,
    Lease,
    Window,
    amount_of,
    share,
    units_of,
    windows,
)
from fungible.ledger.prices import FOREVER, PriceRow

T0 = 1_790_000_040 * 1_000_000_000


def hourly(price: str, from_ns: int = 0, to_ns: int = FOREVER) -> PriceRow:
    return PriceRow(
        key="b",
        unit="hour",
        leaf="",
        price=Decimal(price),
        currency="USD",
        from_ns=from_ns,
        to_ns=to_ns,
    )


prices = st.decimals(0, 1000, places=12).map(lambda price: hourly(f"{price:f}"))
spans = st.lists(
    st.tuples(st.integers(-100, 300), st.integers(0, 200)).map(
        lambda span: (span[0], span[0] + span[1])
    ),
    max_size=12,
)


def lease_of(start: int, length: int) -> Lease:
    return Lease(lease_id="l", backend="b", started_ns=start, seen_ns=start + length)


@given(st.integers(0, 10**18), st.integers(0, 3 * HOUR_NS), prices)
def test_windows_add_up_to_price_times_hours(start: int, length: int, price: PriceRow) -> None:
    cut = windows(lease_of(start, length), [price])
    total = sum(window.units for window in cut)
    exact = Fraction(units_of(price.price) * length, HOUR_NS)
    assert total == int(exact + Fraction(1, 2))
    assert all(window.units >= 0 for window in cut)
    edges = [start, *(window.end_ns for window in cut)]
    assert [window.start_ns for window in cut] == edges[:-1]
    assert edges[-1] == start + length
    assert all(edge % WINDOW_NS == 0 for edge in edges[1:-1])


@given(st.integers(0, 10 * WINDOW_NS), st.integers(1, 9), st.data())
def test_a_price_change_cuts_the_lease(length: int, pieces: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 9 * WINDOW_NS), min_size=1, max_size=pieces)))
    edges = [0, *(T0 + cut for cut in cuts), FOREVER]
    rows = [hourly(f"{at + 1}.37", start, end) for at, (start, end) in enumerate(pairwise(edges))]
    lease = lease_of(T0, length)
    total = sum(window.units for window in windows(lease, rows[::-1]))
    exact = 0
    for row in rows:
        held = min(lease.seen_ns, row.to_ns) - max(lease.started_ns, row.from_ns)
        exact += int(Fraction(units_of(row.price) * max(0, held), HOUR_NS) + Fraction(1, 2))
    assert total == exact


def test_time_without_a_price_is_not_billed() -> None:
    gap = [hourly("1", 0, T0 + WINDOW_NS), hourly("1", T0 + 2 * WINDOW_NS)]
    cut = windows(lease_of(T0, 3 * WINDOW_NS), gap)
    assert [window.start_ns for window in cut] == [T0, T0 + 2 * WINDOW_NS]


@given(st.integers(0, 5 * WINDOW_NS), st.integers(0, 7), st.integers(1, 7), prices)
def test_windows_of_a_range_are_those_of_the_whole(
    length: int, first: int, count: int, price: PriceRow
) -> None:
    lease = lease_of(T0 + 17, length)
    start, end = T0 + (first - 1) * WINDOW_NS, T0 + (first - 1 + count) * WINDOW_NS
    whole = [window for window in windows(lease, [price]) if start <= window.start_ns < end]
    assert windows(lease, [price], start, end) == whole


def brute_force(window: Window, attempts: list[Busy]) -> dict[str, Fraction]:
    """Unit by unit of time: who is there shares it."""
    rate = Fraction(units_of(window.price.price), HOUR_NS)
    held = {busy.attempt_id: Fraction(0) for busy in attempts}
    held["idle"] = Fraction(0)
    for at in range(window.start_ns, window.end_ns):
        there = [busy.attempt_id for busy in attempts if busy.started_ns <= at < busy.ended_ns]
        for name in there or ["idle"]:
            held[name] += rate / max(1, len(there))
    return held


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 200), spans, st.decimals(0, 10**6, places=12), st.randoms())
def test_shares_are_the_brute_force_ones_and_add_up(
    length: int, drawn: list[tuple[int, int]], price: Decimal, shuffle: random.Random
) -> None:
    (window,) = windows(lease_of(T0, length), [hourly(f"{price:f}")])
    attempts = [
        Busy(attempt_id=f"a{at}", started_ns=T0 + start, ended_ns=T0 + end)
        for at, (start, end) in enumerate(drawn)
    ]
    shares = share(window, attempts)
    assert sum(shares.attempts.values()) + shares.idle == window.units
    assert shares.idle >= 0
    assert all(units >= 0 for units in shares.attempts.values())
    expected = brute_force(window, attempts)
    for name, exact in expected.items():
        units = shares.idle if name == "idle" else shares.attempts.get(name, 0)
        assert abs(units - exact) <= 2
    mixed = list(attempts)
    shuffle.shuffle(mixed)
    assert share(window, mixed) == shares


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, WINDOW_NS), st.integers(0, WINDOW_NS)), max_size=40),
    st.decimals(0, 1000, places=12),
    st.integers(1, WINDOW_NS),
)
def test_conservation_at_nanoseconds(
    drawn: list[tuple[int, int]], price: Decimal, length: int
) -> None:
    window = windows(lease_of(T0, length), [hourly(f"{price:f}")])[0]
    attempts = [
        Busy(attempt_id=f"a{at}", started_ns=T0 + min(span), ended_ns=T0 + max(span))
        for at, span in enumerate(drawn)
    ]
    shares = share(window, attempts)
    total = sum((amount_of(units) for units in shares.attempts.values()), Decimal(0))
    assert total + amount_of(shares.idle) == amount_of(window.units)


@settings(max_examples=60, deadline=None)
@given(spans, st.integers(1, 100), st.integers(1, 100))
def test_time_that_passes_idle_changes_no_share(
    drawn: list[tuple[int, int]], length: int, more: int
) -> None:
    attempts = [
        Busy(attempt_id=f"a{at}", started_ns=T0 + start, ended_ns=T0 + min(end, length))
        for at, (start, end) in enumerate(drawn)
        if start < length
    ]
    price = hourly("0.123456789012")
    (early,) = windows(lease_of(T0, length), [price])
    (late,) = windows(lease_of(T0, length + more), [price])
    before, after = share(early, attempts), share(late, attempts)
    if before.idle > 1:  # fully busy time may still move its last digit
        assert before.attempts == after.attempts


def test_no_attempts_is_all_idle_and_one_attempt_is_none() -> None:
    (window,) = windows(lease_of(T0, WINDOW_NS), [hourly("0.90")])
    assert share(window, []).idle == window.units == units_of(Decimal("0.015"))
    alone = Busy(attempt_id="a", started_ns=T0 - 5, ended_ns=T0 + 2 * WINDOW_NS)
    assert share(window, [alone]).attempts == {"a": window.units}
    assert share(window, [alone]).idle == 0


def test_equal_attempts_pay_the_same_but_for_the_last_digit() -> None:
    (window,) = windows(lease_of(T0, WINDOW_NS), [hourly("0.01")])
    three = [Busy(attempt_id=f"a{at}", started_ns=T0, ended_ns=T0 + WINDOW_NS) for at in range(3)]
    units = sorted(share(window, three).attempts.values())
    assert sum(units) == window.units
    assert units[-1] - units[0] <= 1


def test_an_attempt_without_duration_is_priced_at_nothing() -> None:
    (window,) = windows(lease_of(T0, WINDOW_NS), [hourly("1")])
    instant = Busy(attempt_id="a", started_ns=T0 + 5, ended_ns=T0 + 5)
    backwards = Busy(attempt_id="b", started_ns=T0 + 5, ended_ns=T0 - 5)
    outside = Busy(attempt_id="c", started_ns=T0 + WINDOW_NS, ended_ns=T0 + WINDOW_NS)
    assert share(window, [instant, backwards, outside]).attempts == {"a": 0, "b": 0}
