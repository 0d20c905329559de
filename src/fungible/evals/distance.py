"""How far a candidate's answers are from the reference's, without labels.

Accuracy can stay the same while a model breaks (Dutta et al., arXiv 2407.09141): answers
flip both ways and cancel. These numbers see that.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import msgspec

from fungible.contract.openai import TokenLogprob, TopLogprob
from fungible.evals.results import ItemResult

Pair = tuple[ItemResult, ItemResult]
_LEAST = 1e-9
_HASH_OF_NOTHING = hashlib.sha256(b"").hexdigest()[:16]


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers over all pairs; shares are in [0, 1], KL in nats.

    Attributes:
        flips: Share of items that went from right to wrong or back (score moved by >= 0.5).
        changed: Share of items whose answer is not the same text.
        positions: Token positions compared: along the common prefix of the two answers, up to
            and including the first token that differs.
        kl_mean: Mean KL divergence of the next-token distributions, a lower bound.
        kl_p99: Its 99th percentile (nearest rank).
        same_top1: Share of positions with the same most likely token.
        length_ratio: Candidate's emitted tokens / reference's, over all items.
        empty: Share of empty answers of the candidate minus the reference's.
        truncated: Share of answers cut by `max_tokens`, candidate minus reference.
    """

    flips: float
    changed: float
    positions: int
    kl_mean: float
    kl_p99: float
    same_top1: float
    length_ratio: float
    empty: float
    truncated: float


def measure(pairs: Sequence[Pair]) -> Distance:
    """The distance of each pair's second result from its first, over at least one pair."""
    n = len(pairs)
    compared = [position for a, b in pairs for position in aligned(a.tokens, b.tokens)]
    divergences = sorted(kl_lower_bound(top(a), top(b)) for a, b in compared)
    same = sum(_first(a) == _first(b) for a, b in compared)
    lengths = [
        (a.output_tokens, b.output_tokens)
        for a, b in pairs
        if a.output_tokens is not None and b.output_tokens is not None
    ]
    ours, theirs = sum(a for a, _ in lengths), sum(b for _, b in lengths)
    return Distance(
        flips=sum(abs((a.score or 0.0) - (b.score or 0.0)) >= 0.5 for a, b in pairs) / n,
        changed=sum(a.output_hash != b.output_hash for a, b in pairs) / n,
        positions=len(compared),
        kl_mean=math.fsum(divergences) / len(divergences) if divergences else 0.0,
        kl_p99=nearest_rank(divergences, 0.99),
        same_top1=same / len(compared) if compared else 1.0,
        length_ratio=theirs / ours if ours else 1.0,
        empty=sum(_is_empty(b) - _is_empty(a) for a, b in pairs) / n,
        truncated=sum(
            (b.finish_reason == "length") - (a.finish_reason == "length") for a, b in pairs
        )
        / n,
    )


def aligned(
    reference: Sequence[TokenLogprob], candidate: Sequence[TokenLogprob]
) -> list[tuple[TokenLogprob, TokenLogprob]]:
    """Positions at which both models saw the same text before, so that they compare.

    The first differing token is the last such position.
    """
    compared = []
    for a, b in zip(reference, candidate, strict=False):
        compared.append((a, b))
        if _key(a) != _key(b):
            break
    return compared


def top(token: TokenLogprob) -> dict[bytes, float]:
    """Listed alternatives and the emitted token itself: probability by token.

    Alternatives that are spelled alike count together.
    """
    listed: dict[bytes, float] = {}
    for entry in token.top_logprobs:
        listed[_key(entry)] = listed.get(_key(entry), 0.0) + math.exp(entry.logprob)
    return {_key(token): math.exp(token.logprob)} | listed


def kl_lower_bound(p: Mapping[bytes, float], q: Mapping[bytes, float]) -> float:
    """KL(p ‖ q) in nats, at least so much, from the listed top tokens of each side.

    Cells: every token listed by both; the tokens listed by `p` only; all the rest. Lumping
    can only lower a divergence (data-processing inequality). What `q` gives to the second
    cell is not known, only that no unlisted token is likelier than its least likely listed
    one, so the value within that limit which makes the divergence smallest is taken.
    """
    both = p.keys() & q.keys()
    p_only = sum(value for token, value in p.items() if token not in both)
    p_both, q_both = sum(p[token] for token in both), sum(q[token] for token in both)
    p_left, q_left = max(1.0 - p_both, 0.0), max(1.0 - q_both, 0.0)
    total = math.fsum(_term(p[token], q[token]) for token in both)
    if not p_only:
        return max(0.0, total + _term(p_left, q_left))
    limit = (len(p) - len(both)) * min(q.values(), default=1.0)
    share = min(1.0, p_only / p_left) if p_left else 1.0
    q_only = min(limit, q_left * share)
    total += _term(p_left * share, q_only) + _term(p_left * (1 - share), q_left - q_only)
    return max(0.0, total)


def nearest_rank(ordered: Sequence[float], quantile: float) -> float:
    """The smallest value that at least `quantile` of the sorted values do not exceed; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


def _term(p: float, q: float) -> float:
    return p * math.log(p / max(q, _LEAST)) if p > _LEAST else 0.0


def _key(token: TopLogprob) -> bytes:
    """A token's identity: its bytes where the backend gives them, else its text."""
    return bytes(token.bytes) if token.bytes is not None else token.token.encode()


def _first(token: TokenLogprob) -> bytes:
    listed = top(token)
    return max(listed, key=lambda name: listed[name])


def _is_empty(result: ItemResult) -> bool:
    if result.output_tokens == 0 or result.output_hash == _HASH_OF_NOTHING:
        return True
    return bool(result.tokens) and not any(token.token.strip() for token in result.tokens)
