"""Conversations stay where their cache is, move only when they must, and overload nobody."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.routing.affinity import FREE_LOAD, affinity_key, fits, rendezvous, stable_prefix
from support.dispatching import request

names = st.sampled_from(list("abcdef"))
weights = st.dictionaries(names, st.floats(0.01, 10), min_size=1)
KEYS = [f"session {at}" for at in range(300)]


@given(weights=weights, gone=names)
def test_when_a_backend_goes_only_its_own_sessions_move(
    weights: dict[str, float], gone: str
) -> None:
    left = {name: weight for name, weight in weights.items() if name != gone}
    if not left:
        return
    for key in KEYS[:60]:
        before, after = rendezvous(key, weights)[0], rendezvous(key, left)[0]
        assert before in (after, gone)


@given(weights=weights, fresh=names, weight=st.floats(0.01, 10))
def test_when_a_backend_comes_or_grows_sessions_move_only_to_it(
    weights: dict[str, float], fresh: str, weight: float
) -> None:
    grown = weights | {fresh: weights.get(fresh, 0.0) + weight}
    for key in KEYS[:60]:
        before, after = rendezvous(key, weights)[0], rendezvous(key, grown)[0]
        assert after in (before, fresh)


def test_shares_follow_the_weights() -> None:
    got = Counter(rendezvous(f"k{at}", {"a": 1, "b": 2, "c": 5, "d": 0})[0] for at in range(4000))
    assert got["d"] == 0
    for name, share in (("a", 1 / 8), ("b", 2 / 8), ("c", 5 / 8)):
        assert abs(got[name] / 4000 - share) <= 5 * (share * (1 - share) / 4000) ** 0.5


@settings(max_examples=60, deadline=None)
@given(
    weights=weights,
    factor=st.floats(1.0, 3.0),
    sessions=st.lists(st.sampled_from(KEYS[:5]), max_size=150),
)
def test_nobody_gets_more_than_the_bound(
    weights: dict[str, float], factor: float, sessions: list[str]
) -> None:
    """Few sessions, many requests of each: without a bound one backend would get nearly all."""
    outstanding = dict.fromkeys(weights, 0)
    for session in sessions:
        ranked = rendezvous(session, weights)
        able = [name for name in ranked if fits(name, weights, outstanding, factor)]
        assert able, "somebody always has room"
        outstanding[able[0]] += 1
    total = sum(outstanding.values())
    for name, load in outstanding.items():
        share = weights[name] / sum(weights.values())
        assert load <= max(FREE_LOAD, factor * share * total + 1)


def turns(*contents: Any, first: str = "user") -> list[dict[str, Any]]:
    roles = ["system", first, "assistant", "user"]
    return [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (
            {"messages": turns("be kind", "hi")},
            {"messages": turns("be kind", "hi", "a", "b")},
            True,
        ),
        ({"messages": turns("be kind", "hi")}, {"messages": turns("be kind", "ho")}, False),
        ({"messages": turns("be kind", "hi")}, {"messages": turns("be rude", "hi")}, False),
        ({"system": "s", "messages": []}, {"system": "t", "messages": []}, False),
        ({"instructions": "x", "input": "hi"}, {"instructions": "y", "input": "hi"}, False),
        ({"input": "hi"}, {"input": "hi"}, True),
        ({"prompt": "hi"}, {"prompt": "ho"}, False),
        (
            {"messages": turns("s", [{"type": "text", "text": "a"}])},
            {"messages": turns("s", [{"type": "text", "text": "b"}])},
            False,
        ),
    ],
)
def test_the_stable_prefix_is_system_text_and_first_turn(
    one: dict[str, Any], two: dict[str, Any], same: bool
) -> None:
    assert (stable_prefix(one) == stable_prefix(two)) == same
    assert stable_prefix(one) != ""


def test_a_session_comes_before_the_prefix_and_none_means_none() -> None:
    named, bare = request(session="s"), request()
    assert affinity_key(named, "session") == affinity_key(named, "prefix") != ""
    assert affinity_key(bare, "session") == ""
    assert affinity_key(bare, "prefix") == stable_prefix(bare.body) != ""
    assert affinity_key(named, "none") == ""
    assert stable_prefix({"messages": 7}) == stable_prefix({}) == ""


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_any_body_has_a_prefix_or_none(turns: Any) -> None:
    assert isinstance(stable_prefix({"messages": turns}), str)
