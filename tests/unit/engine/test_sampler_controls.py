"""Biases, penalties, top_k, min_p and their order, against an implementation in plain Python."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fungible.engine.sampler import Sampler, SamplingParams, _kth_largest, log_probabilities
from fungible.errors import EngineError

VOCAB = 12
PENALTIES = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
rows = arrays(np.float32, VOCAB, elements=st.integers(-20, 20).map(lambda one: one / 4))
biases = st.dictionaries(st.integers(0, VOCAB - 1), st.integers(-3, 3).map(float), max_size=4)
prompts = st.lists(st.integers(0, VOCAB - 1), max_size=6)
params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.15, 0.62, 0.93, 1.0]),
    top_k=st.integers(0, VOCAB + 3),
    min_p=st.sampled_from([0.0, 0.03, 0.37, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.9, -0.3]),
    frequency_penalty=st.sampled_from([0.0, 0.45, -0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 0.8]),
    logit_bias=biases,
    seed=st.integers(0, 2**64 - 1),
)


def shaped(
    logits: Sequence[float], asked: SamplingParams, prompt: Sequence[int], said: Sequence[int]
) -> list[float]:
    """Logits after biases and penalties."""
    result = []
    for token, given_ in enumerate(logits):
        value = float(given_) + asked.logit_bias.get(token, 0.0)
        if token in prompt or token in said:
            factor = asked.repetition_penalty
            value = value / factor if value > 0 else value * factor
        count = list(said).count(token)
        value -= asked.frequency_penalty * count + asked.presence_penalty * (count > 0)
        result.append(value)
    return result


def tied_by_rounding(values: Sequence[float], changed: set[int]) -> bool:
    """Whether float32 may order a changed token and another one otherwise than these numbers do."""
    return any(
        abs(values[token] - value) < 1e-5
        for token in changed
        for other, value in enumerate(values)
        if other != token
    )


def distribution(logits: Sequence[float], asked: SamplingParams) -> list[float] | None:
    """Probability of each token after temperature, min_p, top_k and top_p.

    `None` where a token lies so near an edge that rounding decides.
    """
    peak = max(logits)
    weights = [math.exp((value - peak) / asked.temperature) for value in logits]
    if any(weight < 1 and abs(weight - asked.min_p) < 1e-3 * asked.min_p for weight in weights):
        return None
    weights = [weight if weight >= asked.min_p else 0.0 for weight in weights]
    if asked.top_k:
        edge = sorted(weights, reverse=True)[min(asked.top_k, len(weights)) - 1]
        weights = [weight if weight >= edge else 0.0 for weight in weights]
    total, edge, held = math.fsum(weights), 0.0, 0.0
    for weight in sorted(weights, reverse=True):
        if asked.top_p < 1 and abs(held - asked.top_p * total) < 1e-4 * total:
            return None
        if held < asked.top_p * total and weight > 0:
            edge, held = weight, held + weight
    weights = [weight if weight >= edge * (1 - 1e-6) else 0.0 for weight in weights]
    return [weight / math.fsum(weights) for weight in weights]


@settings(max_examples=300, deadline=None)
@given(rows, params, prompts)
def test_each_draw_is_where_the_whole_distribution_says(
    logits: np.ndarray, asked: SamplingParams, prompt: list[int]
) -> None:
    """One uniform number a token, looked up in the cumulative distribution in order of ids."""
    if asked.top_k == 1:
        return  # the most likely token, without a draw
    sampler = Sampler(asked, prompt)
    uniform = np.random.Generator(np.random.Philox(key=asked.seed))
    before = logits.copy()
    said: list[int] = []
    for _ in range(5):
        token = sampler.sample(logits).token
        values = shaped(logits.tolist(), asked, prompt, said)
        assume(not tied_by_rounding(values, {*prompt, *said, *asked.logit_bias}))
        wanted = distribution(values, asked)
        assume(wanted is not None)
        point, below = uniform.random(), math.fsum(wanted[:token])
        assert wanted[token] > 0
        assert below - 1e-5 <= point <= below + wanted[token] + 1e-5
        said.append(token)
    assert np.array_equal(logits, before), "the caller's logits are not ours to change"


@settings(max_examples=200, deadline=None)
@given(rows, params, prompts)
def test_greedy_answers_follow_biases_and_penalties(
    logits: np.ndarray, asked: SamplingParams, prompt: list[int]
) -> None:
    greedy = SamplingParams(
        temperature=0,
        logit_bias=asked.logit_bias,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        repetition_penalty=asked.repetition_penalty,
    )
    sampler = Sampler(greedy, prompt)
    said: list[int] = []
    for _ in range(150):
        token = sampler.sample(logits).token
        wanted = shaped(logits.tolist(), greedy, prompt, said)
        assert wanted[token] == pytest.approx(max(wanted), abs=2e-4)
        said.append(token)


def test_penalties_keep_count_of_more_tokens_than_they_first_have_room_for() -> None:
    logits = np.zeros(400, dtype=np.float32)
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=1.0))
    assert [sampler.sample(logits).token for _ in range(400)] == list(range(400))


def test_counts_come_as_often_as_their_probability_says() -> None:
    logits = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], dtype=np.float32)
    asked = SamplingParams(
        seed=11, temperature=1.3, top_k=5, min_p=0.05, top_p=0.95, logit_bias={4: 0.5}
    )
    wanted = np.array(distribution(shaped(logits.tolist(), asked, (), ()), asked))
    sampler = Sampler(asked)
    drawn = [sampler.sample(logits).token for _ in range(10_000)]
    counts = np.bincount(drawn, minlength=6)
    assert set(drawn) == set(np.flatnonzero(wanted))
    held = wanted > 0
    assert stats.chisquare(counts[held], 10_000 * wanted[held]).pvalue > 1e-4


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(1, 900), elements=st.floats(-5, 5, width=32)),
    st.integers(1, 900),
)
def test_the_kth_largest_is_what_sorting_finds(values: np.ndarray, k: int) -> None:
    k = min(k, values.size)
    assert _kth_largest(values, k) == np.sort(values)[values.size - k]


@pytest.mark.parametrize(("k", "support"), [(1, {3}), (2, {3, 0}), (3, {3, 0, 1, 2}), (9, None)])
def test_top_k_keeps_the_most_likely_and_those_as_likely_as_the_last(
    k: int, support: set[int] | None
) -> None:
    logits = np.array([2.0, 1.0, 1.0, 3.0, 0.5], dtype=np.float32)
    sampler = Sampler(SamplingParams(seed=1, temperature=2.0, top_k=k))
    drawn = {sampler.sample(logits).token for _ in range(400)}
    assert drawn == (support or set(range(5)))


@pytest.mark.parametrize(
    "asked",
    [
        SamplingParams(temperature=0),
        SamplingParams(seed=2),
        SamplingParams(seed=2, top_k=3),
        SamplingParams(seed=2, top_k=99, top_p=0.99),
        SamplingParams(seed=2, min_p=0.01, logit_bias={0: 100.0}),
        SamplingParams(seed=2, temperature=2.0, **PENALTIES),
    ],
)
def test_masked_tokens_are_never_chosen(asked: SamplingParams) -> None:
    logits = np.array([-np.inf, 1.0, 2.0, -np.inf, 0.0], dtype=np.float32)
    sampler = Sampler(asked, [0, 1, 3])
    assert {sampler.sample(logits).token for _ in range(300)} <= {1, 2, 4}


def test_nothing_left_to_choose_from_is_an_error() -> None:
    with pytest.raises(EngineError, match="every one of them is masked"):
        Sampler(SamplingParams()).sample(np.full(4, -np.inf, dtype=np.float32))


@settings(deadline=None)
@given(rows, params, st.sets(st.integers(0, VOCAB - 1), max_size=VOCAB - 1))
def test_log_probabilities_are_the_models_own(
    logits: np.ndarray, asked: SamplingParams, hidden: set[int]
) -> None:
    asked = SamplingParams(
        seed=3, top_logprobs=3, top_k=asked.top_k, logit_bias=asked.logit_bias, **PENALTIES
    )
    masked = logits.copy()
    masked[list(hidden)] = -np.inf
    sampled = Sampler(asked, [1, 2]).sample(masked, logits)
    assert sampled.token not in hidden
    assert (sampled.logprob, sampled.top) == log_probabilities(logits, sampled.token, 3)


def test_the_same_seed_gives_the_same_answer_under_every_control() -> None:
    rng = np.random.default_rng(0)
    asked = SamplingParams(seed=9, top_k=40, min_p=0.01, top_p=0.9, **PENALTIES)
    one, other = Sampler(asked, [5, 6]), Sampler(asked, [5, 6])
    for _ in range(50):
        logits = rng.standard_normal(500).astype(np.float32)
        assert one.sample(logits) == other.sample(logits)
