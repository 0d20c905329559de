"""The boundary test keeps its promise at every look, forgets nothing, and never overflows."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.migrate.eprocess import BoundaryTest, pairs_needed

margins = st.sampled_from([0.02, 0.05, 0.1, 0.5])
differences = st.lists(st.floats(-1.0, 1.0), max_size=60)


def run(margin: float, values: list[float]) -> BoundaryTest:
    test = BoundaryTest(margin=margin)
    for value in values:
        test = test.update(value)
    return test


def test_both_gamblers_start_with_a_capital_of_one() -> None:
    test = BoundaryTest(margin=0.05)
    assert test.e_promote == pytest.approx(1.0)
    assert test.e_rollback == pytest.approx(1.0)


def test_pairs_that_a_spotless_candidate_needs() -> None:
    assert pairs_needed(0.05, 20.0) == 73
    assert pairs_needed(0.10, 20.0) == 36


def test_a_broken_candidate_is_found_within_a_few_pairs() -> None:
    test = run(0.05, [-1.0] * 10)
    assert test.e_rollback > 20.0
    assert test.e_promote < 0.1


@given(margins, differences)
def test_order_does_not_matter(margin: float, values: list[float]) -> None:
    forward, backward = run(margin, values), run(margin, values[::-1])
    assert math.isclose(forward.e_promote, backward.e_promote, rel_tol=1e-9)
    assert math.isclose(forward.e_rollback, backward.e_rollback, rel_tol=1e-9)


@given(margins, differences, differences)
def test_a_resumed_test_goes_on_where_it_stopped(
    margin: float, first: list[float], second: list[float]
) -> None:
    stored = msgspec.json.encode(run(margin, first))
    resumed = msgspec.json.decode(stored, type=BoundaryTest)
    for value in second:
        resumed = resumed.update(value)
    assert resumed == run(margin, first + second)


@given(margins, st.floats(-1.0, 1.0))
def test_expected_wealth_at_the_boundary_is_at_most_one(margin: float, spread: float) -> None:
    # A two-point distribution with mean exactly −margin: the nulls' common edge.
    low, high = -1.0, max(-margin, abs(spread))
    if math.isclose(low, high) or math.isclose(high, -margin):
        return
    p_high = (-margin - low) / (high - low)
    test = BoundaryTest(margin=margin)
    for side in ("e_promote", "e_rollback"):
        mean = p_high * getattr(test.update(high), side)
        mean += (1 - p_high) * getattr(test.update(low), side)
        assert mean == pytest.approx(1.0)


def test_wealth_stays_finite_however_long_it_runs() -> None:
    grown = run(0.5, [1.0] * 5000)
    assert math.isfinite(grown.e_promote)
    assert grown.e_promote > 1e300
    assert grown.e_rollback < 1e-100
    msgspec.json.encode(grown)
    ruined = run(0.05, [-1.0] * 5000)
    assert ruined.e_promote < 1e-30
    assert math.isfinite(ruined.e_rollback)


@pytest.mark.parametrize("value", [1.5, -1.01, math.nan, math.inf])
def test_values_outside_the_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        BoundaryTest(margin=0.05).update(value)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, math.nan])
def test_a_margin_without_a_bet_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        BoundaryTest(margin=margin)


def crossings(p_loss: float, p_gain: float, *, margin: float, looks: int, runs: int) -> float:
    """Share of runs in which E1 reached 20 at any look: the worst optional stopping."""
    rng = random.Random(7)
    crossed = 0
    for _ in range(runs):
        test = BoundaryTest(margin=margin)
        for _ in range(looks):
            draw = rng.random()
            test = test.update(-1.0 if draw < p_loss else 1.0 if draw < p_loss + p_gain else 0.0)
            if test.e_promote >= 20.0:
                crossed += 1
                break
    return crossed / runs


def test_false_promotion_at_the_margin_is_at_most_one_in_twenty_at_any_look() -> None:
    # Mean exactly −0.10; 300 runs put the 99.9 % limit of a true 5 % at about 9.4 %.
    assert crossings(0.10, 0.0, margin=0.10, looks=300, runs=300) <= 0.094


def test_a_good_candidate_is_promoted_almost_always() -> None:
    assert crossings(0.005, 0.005, margin=0.10, looks=300, runs=100) >= 0.97
