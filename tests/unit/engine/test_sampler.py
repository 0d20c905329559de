import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fungible.engine.sampler import (
    Sampler,
    SamplingParams,
    _invert,
    _nucleus_edge,
    log_probabilities,
)
from fungible.errors import EngineError

logit_rows = arrays(
    np.float32, st.integers(2, 40), elements=st.floats(-30, 30, width=32, allow_nan=False)
)


def draws(params: SamplingParams, logits: np.ndarray, count: int) -> list[int]:
    sampler = Sampler(params)
    return [sampler.sample(logits).token for _ in range(count)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(top_p=0.0),
        SamplingParams(temperature=1e-30),
    ],
)
@settings(deadline=None)
@given(logit_rows)
def test_greedy_takes_the_most_likely_token(params: SamplingParams, logits: np.ndarray) -> None:
    assert Sampler(params).sample(logits).token == int(np.argmax(logits))


@settings(deadline=None)
@given(logit_rows, st.integers(-(2**63), 2**63 - 1), st.floats(0.1, 2), st.floats(0, 1))
def test_the_same_seed_gives_the_same_tokens(
    logits: np.ndarray, seed: int, temperature: float, top_p: float
) -> None:
    params = SamplingParams(seed=seed, temperature=temperature, top_p=top_p)
    assert draws(params, logits, 5) == draws(params, logits, 5)


def test_other_seeds_and_no_seed_give_other_tokens() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    first = draws(SamplingParams(seed=1), logits, 8)
    assert first != draws(SamplingParams(seed=2), logits, 8)
    assert draws(SamplingParams(), logits, 8) != draws(SamplingParams(), logits, 8)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0], dtype=np.float32)
    wanted = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    counts = np.bincount(
        draws(SamplingParams(seed=7, temperature=temperature), logits, 20_000), minlength=4
    )
    error = np.sqrt(wanted * (1 - wanted) / 20_000)
    assert np.all(np.abs(counts / 20_000 - wanted) < 4.5 * error)


@settings(max_examples=300, deadline=None)
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 0.999),
)
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(
    weights: np.ndarray, top_p: float
) -> None:
    weights[0] = 1.0  # the most likely token's weight is 1 by construction
    edge = _nucleus_edge(weights, top_p)
    total = math.fsum(weights)
    assert math.fsum(weights[weights >= edge]) >= top_p * total * (1 - 1e-12)
    assert math.fsum(weights[weights > edge]) <= top_p * total * (1 + 1e-12)


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(1, 700), elements=st.floats(0, 1, width=32)),
    st.floats(0, 1, exclude_max=True),
)
def test_a_draw_inverts_the_cumulative_distribution(weights: np.ndarray, uniform: float) -> None:
    weights[len(weights) // 2] = 1.0
    index = _invert(weights, uniform)
    assert weights[index] > 0
    below, total = math.fsum(weights[:index]), math.fsum(weights)
    slack = 1e-9 * total
    assert below - slack <= uniform * total <= below + float(weights[index]) + slack


def test_top_p_never_draws_outside_the_nucleus() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    assert set(draws(SamplingParams(seed=3, top_p=0.7), logits, 500)) == {0, 1}


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.array([0.0, -np.inf, 0.0, -np.inf], dtype=np.float32)
    assert set(draws(SamplingParams(seed=5), logits, 200)) == {0, 2}


@settings(deadline=None)
@given(logit_rows, st.integers(0, 20), st.data())
def test_log_probabilities_are_a_log_softmax(
    logits: np.ndarray, count: int, data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, logits.size - 1))
    logprob, top = log_probabilities(logits, token, count)
    exact = [float(value) for value in logits]
    peak = max(exact)
    total = math.log(math.fsum(math.exp(value - peak) for value in exact)) + peak
    assert logprob == pytest.approx(exact[token] - total, abs=1e-5)
    assert len(top) == min(count, logits.size)
    ranked = sorted(range(logits.size), key=lambda one: (-exact[one], one))
    assert [one for one, _ in top] == ranked[: len(top)]
    assert all(value == pytest.approx(exact[one] - total, abs=1e-5) for one, value in top)


def test_log_probabilities_stay_finite() -> None:
    logits = np.array([0.0, -np.inf], dtype=np.float32)
    assert log_probabilities(logits, 1, 2) == (-9999.0, ((0, 0.0), (1, -9999.0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    logits = np.array([0.0, bad, 1.0], dtype=np.float32)
    with pytest.raises(EngineError, match="not finite"):
        Sampler(SamplingParams()).sample(logits)
