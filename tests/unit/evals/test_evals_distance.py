import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.contract.openai import TokenLogprob, TopLogprob
from fungible.evals.distance import aligned, kl_lower_bound, measure, nearest_rank
from fungible.evals.results import ItemResult

VOCABULARY = [bytes([65 + at]) for at in range(26)]


def token(text: str, p: float = 0.9, **others: float) -> TokenLogprob:
    top = [TopLogprob(token=text, logprob=math.log(p))]
    top += [TopLogprob(token=name, logprob=math.log(value)) for name, value in others.items()]
    return TokenLogprob(token=text, logprob=math.log(p), top_logprobs=top)


def result(item: str, tokens: list[TokenLogprob], **fields: object) -> ItemResult:
    text = "".join(one.token for one in tokens)
    defaults = {"score": 1.0, "output_hash": text, "output_tokens": len(tokens)}
    return ItemResult(item_id=item, tokens=tokens, **(defaults | fields))


@st.composite
def distributions(draw: st.DrawFn) -> list[float]:
    weights = draw(st.lists(st.floats(-12, 0), min_size=26, max_size=26))
    total = math.fsum(math.exp(weight) for weight in weights)
    return [math.exp(weight) / total for weight in weights]


def top_of(p: list[float], k: int) -> dict[bytes, float]:
    ranked = sorted(zip(VOCABULARY, p, strict=True), key=lambda pair: -pair[1])
    return dict(ranked[:k])


@given(p=distributions(), q=distributions(), k=st.integers(1, 26))
def test_kl_from_the_top_never_exceeds_the_whole(p: list[float], q: list[float], k: int) -> None:
    whole = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    bound = kl_lower_bound(top_of(p, k), top_of(q, k))
    assert 0 <= bound <= whole + 1e-6
    if k == 26:
        assert bound == pytest.approx(whole, abs=1e-6)


@given(p=distributions(), k=st.integers(1, 26))
def test_kl_of_the_same_is_nothing(p: list[float], k: int) -> None:
    assert kl_lower_bound(top_of(p, k), top_of(p, k)) == pytest.approx(0, abs=1e-9)


def test_kl_sees_lists_without_a_common_token() -> None:
    """What neither lists is not unknown: the candidate's least listed token limits it."""
    ours = {b"a": 0.9, b"b": 0.09}
    theirs = {b"c": 0.9, b"d": 0.001}
    assert kl_lower_bound(ours, theirs) > 5


def test_only_the_common_prefix_and_the_first_difference_compare() -> None:
    ours = [token("a"), token("b"), token("c"), token("d")]
    theirs = [token("a"), token("b"), token("x"), token("d")]
    assert len(aligned(ours, theirs)) == 3
    assert len(aligned(ours, ours[:2])) == 2
    assert aligned([], theirs) == []


def test_measure_counts_each_kind_of_change() -> None:
    pairs = [
        (result("1", [token("a", 0.8, b=0.2)]), result("1", [token("a", 0.8, b=0.2)])),
        (
            result("2", [token("a", 0.8, b=0.2)]),
            result("2", [token("b", 0.8, a=0.2), token("c")], score=0.0),
        ),
        (result("3", [token("x")]), result("3", [token("x")], finish_reason="length")),
        (result("4", [token("y")]), result("4", [], output_tokens=0)),
    ]
    distance = measure(pairs)
    assert distance.flips == 0.25
    assert distance.changed == 0.5
    assert distance.positions == 3
    assert distance.kl_p99 == pytest.approx(0.8 * math.log(4) - 0.2 * math.log(4))
    assert distance.kl_mean == pytest.approx(distance.kl_p99 / 3)
    assert distance.same_top1 == pytest.approx(2 / 3)
    assert distance.length_ratio == 1.0
    assert (distance.empty, distance.truncated) == (0.25, 0.25)


def test_tokens_are_told_apart_by_their_bytes() -> None:
    """Halves of a character are spelled alike; they are not the same token."""
    half, other = (
        TokenLogprob(token="�", logprob=-0.1, bytes=raw, top_logprobs=[])
        for raw in ([0xF0, 0x9F], [0xE2, 0x82])
    )
    pairs = [(result("1", [half, half]), result("1", [other, half]))]
    assert measure(pairs).positions == 1
    assert measure(pairs).same_top1 == 0


def test_nearest_rank() -> None:
    assert nearest_rank([], 0.99) == 0
    assert nearest_rank([1.0, 2.0], 0.5) == 1.0
    assert nearest_rank([float(at) for at in range(1, 101)], 0.99) == 99.0
