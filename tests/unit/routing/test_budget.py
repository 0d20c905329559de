"""Repeats are bounded in any span of time, and do not come together."""

from hypothesis import given
from hypothesis import strategies as st

from fungible.routing.budget import BURST, FIRST_PAUSE_S, LONGEST_PAUSE_S, RetryBudget, pause_s


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    share=st.floats(0, 1),
    per_s=st.floats(0, 5),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=200),
)
def test_repeats_are_bounded_in_any_span(
    share: float, per_s: float, steps: list[tuple[bool, float]]
) -> None:
    clock = Clock()
    budget = RetryBudget(share, per_s, clock)
    # What happened, as (time, requests, repeats) so far, to look at every span.
    marks = [(0.0, 0, 0)]
    requests = repeats = 0
    for is_request, later in steps:
        clock.now += later
        if is_request:
            budget.request()
            requests += 1
        else:
            repeats += budget.spend()
        marks.append((clock.now, requests, repeats))
    end, all_requests, all_repeats = marks[-1]
    for at, asked, repeated in marks:
        bound = BURST + share * (all_requests - asked) + per_s * (end - at)
        assert all_repeats - repeated <= bound + 1e-6


def test_a_dead_upstream_gets_a_fifth_more_and_a_burst() -> None:
    budget = RetryBudget(0.2, 0.0, Clock())
    repeats = 0
    for _ in range(10_000):
        budget.request()
        repeats += budget.spend()
    assert 2000 - 1 <= repeats <= 2000 + BURST
    assert budget.refused == 10_000 - repeats


def test_little_traffic_has_retries_too() -> None:
    clock = Clock()
    budget = RetryBudget(0.0, 1.0, clock)
    while budget.spend():
        pass
    clock.now += 1.0
    assert (budget.spend(), budget.spend()) == (True, False)


@given(repeat=st.integers(1, 50), draw=st.floats(0, 1), asked=st.none() | st.floats(0, 1))
def test_pauses_are_spread_from_nothing_to_a_growing_limit(
    repeat: int, draw: float, asked: float | None
) -> None:
    pause = pause_s(repeat, asked, lambda: draw)
    limit = min(FIRST_PAUSE_S * 2 ** (repeat - 1), LONGEST_PAUSE_S)
    assert (asked or 0.0) <= pause <= (asked or 0.0) + limit
