import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.bench.compare import paired_ratio
from fungible.bench.metrics import Timing, percentile, summarise, supported_percentile


def timing(**fields: object) -> Timing:
    defaults = {
        "item_id": "0", "due": 1.0, "sent": 1.0, "first": 1.5, "last": 2.5, "ended": 2.5,
        "input_tokens": 10, "output_tokens": 11,
    }  # fmt: skip
    return Timing(**(defaults | fields))  # type: ignore[arg-type]


def test_latency_counts_from_when_it_was_due() -> None:
    summary = summarise([timing(sent=1.4)])
    assert summary.ttft_p50_ms == pytest.approx(500)
    assert summary.send_lag_p99_ms == pytest.approx(400)
    assert summary.itl_p50_ms == pytest.approx(100)


def test_rates_are_over_the_whole_run() -> None:
    summary = summarise([timing(), timing(due=2.0, ended=6.0)])
    assert summary.wall_s == 5.0
    assert summary.tokens_per_s == pytest.approx(22 / 5)
    assert summary.total_tokens_per_s == pytest.approx(42 / 5)


def test_failures_count_but_their_tokens_and_times_do_not() -> None:
    summary = summarise([timing(), timing(first=None, last=None, error="HTTP 500")])
    assert (summary.requests, summary.failed, summary.output_tokens) == (2, 1, 11)
    assert summary.ttft_p99_ms == pytest.approx(500)


def test_nothing_at_all_is_all_zeros() -> None:
    assert summarise([]).tokens_per_s == 0
    assert summarise([timing(first=None, last=None, error="x")]).ttft_p50_ms == 0


@given(values=st.lists(st.floats(0, 1e6), min_size=1), percent=st.floats(0.1, 100))
def test_percentile_is_a_value_with_enough_at_or_below_it(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-6
    assert sum(value < found for value in values) < percent / 100 * len(values)


@pytest.mark.parametrize(
    ("count", "supported"), [(0, 0), (9, 0), (10, 50), (40, 75), (50, 90), (100, 95), (500, 99)]
)
def test_a_percentile_needs_values_beyond_it(count: int, supported: float) -> None:
    assert supported_percentile(count) == supported


def test_ratio_of_pairs() -> None:
    same = paired_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert (same.value, same.low, same.high) == pytest.approx((2, 2, 2))
    noisy = paired_ratio([1.0, 1.0], [2.0, 0.5])
    assert noisy.value == pytest.approx(1)
    assert noisy.low < 0.01 < 100 < noisy.high
