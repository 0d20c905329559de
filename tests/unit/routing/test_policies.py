"""Who is chosen under each policy, over simulated load and a clock that is moved by hand."""

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.backends.null import NullBackend
from fungible.config import BackendSettings, RouteSettings
from fungible.ledger.prices import FOREVER, PriceBook, PriceRow
from fungible.routing.place import PeakEwma, Place
from fungible.routing.policy import choose
from fungible.routing.spend import Spend, shape
from fungible.routing.table import Shadow
from support.dispatching import request, route

POLICIES = ["weighted", "least_outstanding", "latency", "cost"]
EVEN = {"a": 1.0, "b": 1.0}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def places(clock: Clock, *names: str, slots: int = 64) -> dict[str, Place]:
    settings = BackendSettings(kind="null", max_concurrency=slots)
    return {name: Place(NullBackend(name, settings), clock) for name in names}


def policy(name: Any, **fields: Any) -> RouteSettings:
    return RouteSettings(reference="a", policy=name, **fields)


def price(key: str, amount: str, unit: Any = "1M_tokens", leaf: str = "") -> PriceRow:
    return PriceRow(
        key=key,
        unit=unit,
        leaf=leaf,
        price=Decimal(amount),
        currency="USD",
        from_ns=0,
        to_ns=FOREVER,
    )


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("session", ["", "s1", "s2"])
def test_no_weight_means_never_under_any_policy(name: str, session: str) -> None:
    known = places(Clock(), "a", "b", "c", "z")
    table = route(weights={"a": 1.0, "b": 1.0, "z": 0.0})
    for at in range(50):
        one = request(session=session, request_id=f"r{at}")
        order = choose(table, one, policy(name), known, Spend(PriceBook()))
        assert set(order) == {"a", "b"}
        known[order[0]].slots.take("c")


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.95), name=st.sampled_from(POLICIES), load=st.integers(0, 40))
def test_a_canary_gets_its_share_under_every_policy(share: float, name: str, load: int) -> None:
    known = places(Clock(), "a", "b")
    for _ in range(load):
        known["b"].slots.take("x")
    known["a"].latency.note(9.0)
    moving = route(weights={"a": 1 - share, "b": share}, migration_id="mig_1")
    spend = Spend(PriceBook((price("b", "9", leaf="input"), price("b", "9", leaf="output"))))
    count = 1000
    orders = [
        choose(moving, request(session=f"s{at}"), policy(name), known, spend) for at in range(count)
    ]
    got = sum(order[0] == "b" for order in orders)
    assert abs(got / count - share) <= 5 * (share * (1 - share) / count) ** 0.5
    assert all(len(set(order)) == 1 for order in orders), "nobody else is tried in its place"


def test_shadow_and_canary_routes_say_that_they_are_moved() -> None:
    shadow = route(weights=EVEN, migration_id="m", shadow=Shadow(backend="b", share=1))
    order = choose(shadow, request(), policy("least_outstanding"), places(Clock(), "a", "b"))
    assert len(set(order)) == 1


def test_least_outstanding_evens_out_what_is_under_way() -> None:
    known = places(Clock(), "a", "b", "c")
    table = route(weights={"a": 1.0, "b": 1.0, "c": 2.0})
    for at in range(80):
        chosen = choose(table, request(request_id=f"r{at}"), policy("least_outstanding"), known)
        known[chosen[0]].slots.take("x")
    loads = {name: place.outstanding for name, place in known.items()}
    assert abs(loads["a"] - loads["b"]) <= 1
    assert abs(loads["c"] - 2 * loads["a"]) <= 2, "weights say how much each can take"


def test_latency_prefers_the_fast_but_not_without_end() -> None:
    clock = Clock()
    known = places(clock, "a", "b")
    known["a"].latency.note(0.1)
    known["b"].latency.note(1.0)
    first: list[str] = []
    for at in range(22):
        order = choose(route(weights=EVEN), request(request_id=f"r{at}"), policy("latency"), known)
        first.append(order[0])
        known[order[0]].slots.take("x")
    assert first[:9] == ["a"] * 9
    assert Counter(first)["b"] == 2, "ten times as slow: one in eleven"


def test_who_was_slow_is_tried_again_after_a_while() -> None:
    clock = Clock()
    known = places(clock, "a", "b")
    known["a"].latency.note(0.1)
    known["b"].latency.note(30.0)
    table = route(weights=EVEN)
    for _ in range(10):
        clock.now += 10.0
        known["a"].latency.note(0.1)
    assert choose(table, request(), policy("latency"), known)[0] == "b"


def test_an_unknown_backend_is_tried_with_one_call_first() -> None:
    known = places(Clock(), "a", "b")
    known["a"].latency.note(0.1)
    table = route(weights=EVEN)
    assert choose(table, request(), policy("latency"), known)[0] == "b"
    known["b"].slots.take("x")
    assert choose(table, request(), policy("latency"), known)[0] == "a"


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 100)), min_size=1, max_size=30))
def test_the_peak_average_rises_at_once_and_stays_below_the_peak(
    samples: list[tuple[float, float]],
) -> None:
    clock = Clock()
    ewma = PeakEwma(clock)
    for later, seconds in samples:
        clock.now += later
        ewma.note(seconds)
        assert ewma.value() >= seconds * (1 - 1e-9)
        assert ewma.value() <= max(s for _, s in samples) * (1 + 1e-9)


def test_cost_takes_the_cheapest_for_the_shape_of_the_request() -> None:
    book = PriceBook(
        (
            price("a", "1", leaf="input"),
            price("a", "10", leaf="output"),
            price("b", "4", leaf="input"),
            price("b", "4", leaf="output"),
        )
    )
    known = places(Clock(), "a", "b", "unpriced")
    table = route(weights={"a": 1.0, "b": 1.0, "unpriced": 1.0})
    long_in = request(messages=[{"role": "user", "content": "x" * 40_000}], max_tokens=10)
    long_out = request(max_tokens=1000)
    for one, wanted in ((long_in, "a"), (long_out, "b")):
        order = choose(table, one, policy("cost"), known, Spend(book))
        assert (order[0], order[-1]) == (wanted, "unpriced")


def test_cost_moves_on_when_the_cheapest_is_full() -> None:
    book = PriceBook(
        (
            price("a", "1", leaf="output"),
            price("b", "2", leaf="output"),
            price("a", "1", leaf="input"),
            price("b", "2", leaf="input"),
        )
    )
    known = places(Clock(), "a", "b", slots=2)
    got = []
    for _ in range(4):
        got.append(choose(route(weights=EVEN), request(), policy("cost"), known, Spend(book))[0])
        known[got[-1]].slots.take("x")
    assert got == ["a", "a", "b", "b"]


def test_an_hour_is_spread_over_what_was_given_in_busy_time() -> None:
    clock = Clock()
    known = places(clock, "a")
    spend = Spend(PriceBook((price("a", "3.6", unit="hour"),)), clock)
    one = request(max_tokens=100)
    assert spend.of(known["a"], one) == 0.0
    known["a"].slots.take("x")
    clock.now += 10.0
    known["a"].slots.leave("x")
    clock.now += 500.0  # idle time is not the request's
    row: Any = type(
        "Row", (), {"in_uncached": 40, "in_cache_read": None, "out_visible": 60, "out_reasoning": 0}
    )
    spend.note(known["a"], row)
    into, out = shape(one.body)
    assert spend.of(known["a"], one) == pytest.approx(3.6 / 3600 * 10 / 100 * (into + out))


@pytest.mark.parametrize("name", POLICIES)
def test_who_is_at_rest_comes_last(name: str) -> None:
    known = places(Clock(), "a", "b")
    for _ in range(5):
        known["a"].breaker.failed()
    if name == "weighted":
        return  # the dispatcher passes over it; its place in the order is its weight's
    for session in ("", "s1", "s2", "s3"):
        order = choose(
            route(weights=EVEN, retries=0),
            request(session=session),
            policy(name),
            known,
            Spend(PriceBook()),
        )
        assert order == ["b", "a"]


@pytest.mark.parametrize("name", ["weighted", "least_outstanding", "latency"])
def test_a_conversation_stays_until_its_backend_has_too_much(name: str) -> None:
    known = places(Clock(), "a", "b")
    table = route(weights=EVEN)

    def goes() -> str:
        return choose(table, request(session="s"), policy(name), known)[0]

    home = goes()
    assert {goes() for _ in range(20)} == {home}
    for _ in range(4):
        known[home].slots.take("x")
    assert goes() != home
