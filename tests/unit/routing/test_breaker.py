"""A backend that keeps failing is left alone, and tried again after a rest."""

from hypothesis import given
from hypothesis import strategies as st

from fungible.routing.health import LONGEST_REST_S, MIN_OUTCOMES, REST_S, TRIP_AFTER, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tripped(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(TRIP_AFTER):
        assert breaker.closed()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(Clock())
    for _ in range(3):
        for _ in range(TRIP_AFTER - 1):
            breaker.failed()
        assert breaker.closed()
        breaker.succeeded()
    assert not tripped(Clock()).closed()


def test_one_request_is_let_through_per_rest() -> None:
    clock = Clock()
    breaker = tripped(clock)
    clock.now += REST_S - 0.001
    assert not breaker.closed()
    clock.now += 0.002
    assert [breaker.closed() for _ in range(3)] == [True, False, False]
    breaker.failed()
    clock.now += 2 * REST_S - 0.001
    assert not breaker.closed(), "the second rest is twice as long"
    clock.now += 0.002
    assert breaker.closed()


def test_a_success_closes_it() -> None:
    clock = Clock()
    breaker = tripped(clock)
    clock.now += REST_S
    assert breaker.closed()
    breaker.succeeded()
    assert all(breaker.closed() for _ in range(3))


def test_half_of_the_outcomes_failing_opens_it_though_never_many_in_a_row() -> None:
    breaker = Breaker(Clock())
    for _ in range(MIN_OUTCOMES // 2):
        assert breaker.state == "closed"
        breaker.failed()
        breaker.succeeded()
    breaker.failed()
    assert breaker.state == "open"
    breaker.succeeded()
    assert breaker.state == "open", "an answer from before it opened does not close it"


def test_a_low_rate_of_errors_does_not_open_it() -> None:
    breaker = Breaker(Clock())
    for at in range(1000):
        breaker.failed() if at % 3 == 0 else breaker.succeeded()
        assert breaker.closed()


def test_old_failures_are_forgotten() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(200):
        clock.now += 10
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"


def test_a_rest_that_was_asked_for_is_kept_and_then_over() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.rest(17)
    assert (breaker.closed(), breaker.state) == (False, "resting")
    clock.now += 17
    assert breaker.state == "closed"
    assert all(breaker.closed() for _ in range(3))
    breaker.rest(86_400)
    clock.now += LONGEST_REST_S
    assert breaker.closed()


def test_a_probe_that_says_nothing_lets_another_one_try() -> None:
    clock = Clock()
    breaker = tripped(clock)
    clock.now += REST_S
    assert (breaker.closed(), breaker.closed()) == (True, False)
    breaker.abandoned()
    assert breaker.state == "half_open"
    assert (breaker.closed(), breaker.closed()) == (True, False)
    breaker.answered()
    assert breaker.state == "closed"


@given(st.lists(st.tuples(st.sampled_from(["ask", "ok", "bad", "gone"]), st.floats(0, 20))))
def test_while_it_is_not_closed_at_most_one_request_is_under_way(
    steps: list[tuple[str, float]],
) -> None:
    clock = Clock()
    breaker = tripped(clock)
    probes = 0
    for step, later in steps:
        clock.now += later
        if step == "ask":
            was_closed = breaker.state == "closed"
            if breaker.closed() and not was_closed:
                probes += 1
                assert probes == 1
        elif probes:
            probes = 0
            {"ok": breaker.succeeded, "bad": breaker.failed, "gone": breaker.abandoned}[step]()
            if step == "ok":
                assert breaker.state == "closed"
            elif step == "bad":
                assert not breaker.closed()
