"""A step's cost goes to its requests by their Shapley value, exactly, whatever the steps are."""

import random
from decimal import Decimal
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from fungible.ledger.costing import HOUR_NS, WINDOW_NS, Lease, Window, split, units_of, windows
from fungible.ledger.fit import StepFit, fit_steps
from fungible.ledger.prices import FOREVER, PriceRow
from fungible.ledger.sharing import Active, share_window
from fungible.ledger.step_shares import EngineStep, attempt_of, parts_of, step_weights

T0 = 1_790_000_040 * 1_000_000_000


def hourly(price: str = "3.6") -> PriceRow:
    return PriceRow(
        key="b", unit="hour", leaf="", price=Decimal(price), currency="USD", from_ns=0,
        to_ns=FOREVER,
    )  # fmt: skip


def window_of(length: int = WINDOW_NS, price: str = "3.6") -> Window:
    lease = Lease(lease_id="l", backend="b", started_ns=T0, seen_ns=T0 + length)
    return windows(lease, [hourly(price)])[0]


def step_of(
    number: int, start: int, duration: int, *shares: tuple[str, int, int, int]
) -> EngineStep:
    return EngineStep(
        run="run",
        step=number,
        start_ns=T0 + start,
        duration_ns=duration,
        requests=[share[0] for share in shares],
        prefill=[share[1] for share in shares],
        decode=[share[2] for share in shares],
        kv=[share[3] for share in shares],
    )


def fit_of(step: int, prefill: int, decode: int, kv: int, r2: float = 0.9) -> StepFit:
    return StepFit(step_fs=step, prefill_fs=prefill, decode_fs=decode, kv_fs=kv, r2=r2, samples=100)


small = st.integers(0, 50)
shares = st.lists(st.tuples(small, st.integers(0, 1), small), min_size=1, max_size=5)
fits = st.builds(fit_of, *[st.integers(0, 10**6)] * 4)


@settings(max_examples=60, deadline=None)
@given(shares, fits)
def test_the_closed_form_is_shapleys_value_over_all_orders(
    drawn: list[tuple[int, int, int]], fit: StepFit
) -> None:
    step = step_of(1, 0, 5, *[(f"r{at}", *one) for at, one in enumerate(drawn)])

    def cost(members: frozenset[int]) -> int:
        own = sum(
            fit.prefill_fs * drawn[at][0] + fit.decode_fs * drawn[at][1] + fit.kv_fs * drawn[at][2]
            for at in members
        )
        return own + (fit.step_fs if members else 0)

    size = len(drawn)
    orders = list(permutations(range(size)))
    value = [Fraction(0)] * size
    for order in orders:
        for place, who in enumerate(order):
            there = frozenset(order[:place])
            value[who] += Fraction(cost(there | {who}) - cost(there), len(orders))
    everybody = cost(frozenset(range(size)))
    weights = step_weights(step, fit)
    if not everybody:
        assert weights == [1] * size
        return
    assert [Fraction(weight, sum(weights)) for weight in weights] == [
        one / everybody for one in value
    ]


steps_drawn = st.lists(
    st.tuples(
        st.integers(-50, 150),
        st.integers(0, 60),
        st.lists(
            st.tuples(st.sampled_from(["a", "b", "c-0", "c-1", "x", "a"]), small, small, small),
            max_size=4,
        ),
    ),
    max_size=15,
)


@settings(max_examples=80, deadline=None)
@given(steps_drawn, fits, st.integers(1, 120), st.decimals(0, 10**6, places=12), st.randoms())
def test_a_window_is_conserved_to_the_last_unit(
    drawn: list[tuple[int, int, list[tuple[str, int, int, int]]]],
    fit: StepFit,
    length: int,
    price: Decimal,
    shuffle: random.Random,
) -> None:
    """Also with steps that overlap, straddle its ends, serve nobody or strangers."""
    window = window_of(length, f"{price:f}")
    steps = [step_of(at, start, took, *who) for at, (start, took, who) in enumerate(drawn)]
    known = {
        name: Active(attempt_id=name, started_ns=T0, ended_ns=T0 + 50) for name in ("a", "b", "c")
    }
    shared = share_window(window, list(known.values()), steps, {"run": fit}, known)
    assert sum(shared.attempts.values()) + shared.unattributed + shared.idle == window.units
    assert min([*shared.attempts.values(), shared.unattributed, shared.idle]) >= 0
    assert set(shared.attempts) == {"a", "b", "c"}
    inside = [one for one in steps if one.start_ns < window.end_ns and one.end_ns > T0]
    assert (shared.rule == "time") == (not inside)
    shuffle.shuffle(steps)
    assert share_window(window, list(known.values())[::-1], steps, {"run": fit}, known) == shared
    if not inside:
        return
    # Against a sum over every nanosecond, a step's instants shared equally with those beside it.
    rate = Fraction(units_of(window.price.price), HOUR_NS)
    exact: dict[str, Fraction] = {"a": Fraction(0), "b": Fraction(0), "c": Fraction(0)}
    for at in range(window.start_ns, window.end_ns):
        there = [one for one in inside if one.start_ns <= at < one.end_ns]
        for one in there:
            weights = step_weights(one, fit)
            for request, weight in zip(one.requests, weights, strict=True):
                name = attempt_of(request, known)
                if name:
                    exact[name] += rate * Fraction(weight, sum(weights) * len(there))
    for name, units in shared.attempts.items():
        assert abs(units - exact[name]) <= 2 * len(steps)


@settings(max_examples=60, deadline=None)
@given(steps_drawn, fits)
def test_later_steps_never_move_a_digit_of_earlier_ones(
    drawn: list[tuple[int, int, list[tuple[str, int, int, int]]]], fit: StepFit
) -> None:
    window = window_of(300, "0.123456789012")
    at, steps = 0, []
    for number, (_, took, who) in enumerate(drawn):  # one after the other, as one engine's are
        steps.append(step_of(number, at, took, *who))
        at += took + 1
    half = len(steps) // 2
    early, _ = parts_of(window, steps[:half], {"run": fit})
    all_of_them, idle = parts_of(window, steps, {"run": fit})
    assert all_of_them[: len(early)] == early
    assert sum(part.units for part in all_of_them) + idle == window.units


def test_shares_worked_by_hand() -> None:
    # 3.6 an hour is 0.001 a second: 10^6 units of 10^-18 a nanosecond.
    window = window_of()
    step = step_of(1, 0, 20_000_000, ("att_a", 128, 0, 128), ("att_b", 0, 1, 300))
    fit = fit_of(8 * 10**12, 50 * 10**9, 10**12, 10**7)  # 8 ms, 50 us, 1 ms, 10 ns
    # a: 6.4 ms + 1.28 us + 4 ms; b: 1 ms + 3 us + 4 ms; together 15.40428 ms for 20 ms.
    weights = step_weights(step, fit)
    assert Fraction(weights[0], sum(weights)) == Fraction(1040128, 1540428)
    known = {
        name: Active(attempt_id=name, started_ns=T0, ended_ns=T0) for name in ("att_a", "att_b")
    }
    shared = share_window(window, list(known.values()), [step], {"run": fit}, known)
    # 20 ms are 0.00002: 10.40128 of 15.40428 parts of it, and 5.003.
    assert shared.attempts == {"att_a": 13_504_402_672_504, "att_b": 6_495_597_327_496}
    assert (shared.rule, shared.fit) == ("steps", "run/100")
    assert sum(shared.attempts.values()) == units_of(Decimal("0.00002"))


def test_without_a_trusted_fit_a_step_is_shared_equally_and_says_so() -> None:
    window = window_of()
    step = step_of(1, 0, 20, ("a", 128, 0, 128), ("b", 0, 1, 300))
    known = {name: Active(attempt_id=name, started_ns=T0, ended_ns=T0 + 20) for name in "ab"}
    for given_fits in ({}, {"run": fit_of(1, 2, 3, 4, r2=0.2)}):
        shared = share_window(window, list(known.values()), [step], given_fits, known)
        assert (shared.rule, shared.fit) == ("steps_equal", "")
        assert shared.attempts["a"] == shared.attempts["b"]


def test_who_was_there_and_in_no_step_used_nothing() -> None:
    known = {name: Active(attempt_id=name, started_ns=T0, ended_ns=T0 + 50) for name in "ab"}
    shared = share_window(
        window_of(), list(known.values()), [step_of(1, 0, 9, ("a", 0, 1, 4))], {}, known
    )
    assert shared.attempts["b"] == 0
    assert shared.attempts["a"] > 0


@pytest.mark.parametrize(
    ("request_id", "attempt"),
    [("att_1", "att_1"), ("att_1-0", "att_1"), ("att_1-12", "att_1"), ("att_1-x", ""), ("x", ""),
     ("a-1", "a-1"), ("a-1-3", "a-1"), ("att_1-", ""), ("", "")],
)  # fmt: skip
def test_an_answers_index_is_not_part_of_the_attempts_name(request_id: str, attempt: str) -> None:
    assert attempt_of(request_id, {"att_1": 0, "a-1": 0}) == attempt


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(small, small, st.integers(0, 500)), min_size=8, max_size=40, unique=True),
    st.tuples(*[st.integers(0, 1000)] * 4),
    st.randoms(),
)
def test_an_affine_step_time_is_found_again(
    contents: list[tuple[int, int, int]], truth: tuple[int, int, int, int], shuffle: random.Random
) -> None:
    step, prefill, decode, kv = truth
    samples = [(step + prefill * p + decode * d + kv * k, p, d, k) for p, d, k in contents]
    fit = fit_steps(samples)
    assert fit is not None
    assert fit.r2 == 1.0
    for duration, p, d, k in samples:  # the coefficients themselves need not be unique
        found = fit.step_fs + fit.prefill_fs * p + fit.decode_fs * d + fit.kv_fs * k
        assert abs(found - duration * 10**6) <= 1 + p + d + k
    mixed = list(samples)
    shuffle.shuffle(mixed)
    assert fit_steps(mixed) == fit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), small, small, small), min_size=1, max_size=30))
def test_the_fit_is_the_best_that_is_nowhere_negative(
    samples: list[tuple[int, int, int, int]],
) -> None:
    fit = fit_steps(samples)
    assert fit is not None
    matrix = [[1.0, float(p), float(d), float(k)] for _, p, d, k in samples]
    target = [float(one[0]) for one in samples]
    _, residual = nnls(matrix, target)
    ours = [value / 10**6 for value in (fit.step_fs, fit.prefill_fs, fit.decode_fs, fit.kv_fs)]
    left = sum(
        (y - sum(a * b for a, b in zip(row, ours, strict=True))) ** 2
        for row, y in zip(matrix, target, strict=True)
    )
    assert left**0.5 <= residual + 1e-3
    assert fit.r2 <= 1.0


def test_nothing_to_fit() -> None:
    assert fit_steps([]) is None
    same = fit_steps([(5, 0, 0, 0), (5, 0, 0, 0)])
    assert same is not None
    assert (same.step_fs, same.r2) == (5_000_000, 1.0)


@given(st.integers(0, 10**24), st.lists(st.integers(0, 10**18), min_size=1, max_size=9))
def test_splitting_adds_up_and_is_within_one(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    if whole:
        exact = [Fraction(total * weight, whole) for weight in weights]
        assert all(abs(a - b) < 1 for a, b in zip(parts, exact, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(0, 10**9)),
        min_size=1, max_size=8,
    ),
    st.integers(1, 100),
)  # fmt: skip
def test_token_classes_share_the_busy_time_and_conserve_it(
    drawn: list[tuple[int, int, int]], length: int
) -> None:
    window = window_of(length)
    active = [
        Active(attempt_id=f"a{at}", started_ns=T0 + start, ended_ns=T0 + start + took, class_fs=fs)
        for at, (start, took, fs) in enumerate(drawn)
    ]
    shared = share_window(window, active, [], {}, {})
    assert sum(shared.attempts.values()) + shared.idle == window.units
    assert shared.rule == ("class" if shared.attempts else "time")
    assert share_window(window, active[::-1], [], {}, {}) == shared
    unknown = Active(attempt_id="u", started_ns=T0, ended_ns=T0 + 1)
    assert share_window(window, [*active, unknown], [], {}, {}).rule == "time"
