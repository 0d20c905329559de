"""Which backend a request goes to: sticky, by weight, and moving as little as it can."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.routing.affinity import unit_hash
from fungible.routing.policy import choose, in_shadow
from fungible.routing.table import Shadow
from support.dispatching import request, route

names = st.sampled_from(["a", "b", "c", "d"])
weights = st.dictionaries(names, st.floats(0, 100), min_size=1).filter(
    lambda one: sum(one.values()) > 1e-6
)


@given(weights=weights, session=st.text(min_size=1), at=st.integers())
def test_a_session_stays_where_it_is(weights: dict[str, float], session: str, at: int) -> None:
    one = request(session=session, request_id=f"req_{at}")
    two = request(session=session, request_id="another")
    chosen = choose(route(weights=weights), one)[0]
    assert chosen == choose(route(weights=weights), two)[0]
    assert weights.get(chosen, 0.0) > 0


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.0, 1.0))
def test_traffic_follows_the_weights(share: float) -> None:
    table = route(weights={"a": 3 * (1 - share), "b": 3 * share})
    count = 2000
    got = sum(choose(table, request(session=f"s{at}"))[0] == "b" for at in range(count))
    # Five standard deviations of a binomial share.
    assert abs(got / count - share) <= 5 * (0.25 / count) ** 0.5


@given(
    low=st.floats(0.0, 1.0),
    high=st.floats(0.0, 1.0),
    session=st.text(min_size=1),
    candidate=st.sampled_from(["a", "z"]),
)
def test_a_growing_weight_moves_sessions_only_to_the_candidate(
    low: float, high: float, session: str, candidate: str
) -> None:
    low, high = sorted((low, high))
    reference = "m"  # between the candidates by name: order must not matter

    def goes(share: float) -> str:
        shares = {reference: 1 - share, candidate: share}
        return choose(route(reference=reference, weights=shares), request(session=session))[0]

    if goes(low) == candidate:
        assert goes(high) == candidate


def test_without_a_session_requests_spread() -> None:
    table = route(weights={"a": 1.0, "b": 1.0})
    assert {choose(table, request(request_id=f"r{at}"))[0] for at in range(50)} == {"a", "b"}


def test_retries_come_first_then_fallbacks_without_the_chosen_one() -> None:
    table = route("b", "a", "c", retries=2)
    assert choose(table, request()) == ["a", "a", "a", "b", "c"]
    assert choose(route(retries=0), request()) == ["a"]
    assert choose(route(retries=-3), request()) == ["a"]


@pytest.mark.parametrize("empty", [{}, {"a": 0.0, "b": 0.0}])
def test_without_any_weight_the_reference_serves(empty: dict[str, float]) -> None:
    assert choose(route(weights=empty), request())[0] == "a"


@given(st.text())
def test_hashes_are_in_the_unit_interval_and_stable(text: str) -> None:
    assert 0.0 < unit_hash(text) < 1.0
    assert unit_hash(text) == unit_hash(text)


def test_the_shadow_share_is_a_share_of_requests() -> None:
    def copied(share: float) -> int:
        table = route(shadow=Shadow(backend="b", share=share))
        return sum(in_shadow(table, request(request_id=f"r{at}")) for at in range(1000))

    assert (copied(0.0), copied(1.0)) == (0, 1000)
    assert 420 < copied(0.5) < 580
    assert not in_shadow(route(), request())
