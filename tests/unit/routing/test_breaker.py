"""A backend that keeps failing is left alone, and tried again after a rest."""

from fungible.routing.health import REST_S, TRIP_AFTER, Breaker


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
    assert not breaker.closed()
    clock.now += REST_S
    assert breaker.closed()


def test_a_success_closes_it() -> None:
    clock = Clock()
    breaker = tripped(clock)
    clock.now += REST_S
    assert breaker.closed()
    breaker.succeeded()
    assert all(breaker.closed() for _ in range(3))
