"""From logits to one token, and to the log-probabilities that clients ask for.

The order is vLLM's: masks (the caller's), `logit_bias`, the repetition, frequency and presence
penalties, then the most likely token, or a draw after `temperature`, `min_p` (Nguyen et al.,
2024), `top_k` (Fan et al., 2018) and `top_p` (Holtzman et al., 2020), each over what the one
before left. Log-probabilities are the model's own, before all of these.

The same seed and the same logits give the same tokens: each request draws from its own
counter-based generator (Philox, Salmon et al., 2011), one number a token, whatever else runs
beside it.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.engine.penalties import LogitBias, Penalties
from fungible.errors import EngineError

_COLDEST = 1e-5  # below it, dividing by the temperature overflows float32: greedy, as in vLLM
_BLOCK = 256
_GROUP = 32
_IMPOSSIBLE = -9999.0  # OpenAI's stand-in for a log-probability of minus infinity


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens; the defaults are OpenAI's.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: Share of probability that may be drawn from; 0 takes the most likely token.
        seed: `None` draws one from the operating system.
        top_logprobs: Alternatives to report a token; `None` reports no log-probabilities.
        top_k: Draw from so many of the most likely tokens, and from those as likely as the
            last of them; 0 draws from all.
        min_p: Draw from tokens at least so likely in proportion to the most likely one.
        presence_penalty: Taken off the logit of each token that the answer holds.
        frequency_penalty: Taken off for each time that the answer holds it.
        repetition_penalty: Divides the positive logits, and multiplies the negative ones, of
            the tokens that the prompt or the answer hold; 1 changes nothing.
        logit_bias: Added to the logits of single tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}


class Sampled(msgspec.Struct, frozen=True):
    """A chosen token; `top` holds (token, log-probability), most likely first."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one request, and remembers them for the penalties.

    Args:
        params: How to choose.
        prompt: Its token ids, for the repetition penalty.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int] | NDArray[np.int64] = ()
    ) -> None:
        self._params = params
        greedy = params.temperature < _COLDEST or params.top_p == 0 or params.top_k == 1
        key = None if params.seed is None else params.seed % (1 << 64)
        self._random = None if greedy else np.random.Generator(np.random.Philox(key=key))
        self._bias = LogitBias(params.logit_bias) if params.logit_bias else None
        self._penalties = _penalties(params, prompt)

    def sample(
        self, logits: NDArray[np.float32], raw: NDArray[np.float32] | None = None
    ) -> Sampled:
        """One token from float32 logits `(vocab,)`; one of minus infinity is never chosen.

        Args:
            logits: Left as they are.
            raw: The model's own logits, where something masked `logits`; log-probabilities
                are taken from these.

        Raises:
            EngineError: The logits hold NaN or infinity, or nothing but minus infinity.
        """
        shaped = self._shape(logits)
        best = int(shaped.argmax())
        if not np.isfinite(shaped[best]):
            raise _not_finite(best, float(shaped[best]))
        token = best if self._random is None else self._draw(shaped, best, self._random)
        if self._penalties is not None:
            self._penalties.remember(token)
        if self._params.top_logprobs is None:
            return Sampled(token)
        own = logits if raw is None else raw
        logprob, top = log_probabilities(own, token, self._params.top_logprobs)
        return Sampled(token, logprob, top)

    def _shape(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._bias is None and self._penalties is None:
            return logits
        shaped = logits.copy()
        if self._bias is not None:
            self._bias.apply(shaped)
        if self._penalties is not None:
            self._penalties.apply(shaped)
        return shaped

    def _draw(self, logits: NDArray[np.float32], best: int, random: np.random.Generator) -> int:
        params = self._params
        tokens = _shortlist(logits, best, params)
        values = logits if tokens is None else logits[tokens]
        weights = np.exp((values - logits[best]) / np.float32(params.temperature))
        if params.top_p < 1:
            weights[weights < _nucleus_edge(weights, params.top_p)] = 0
        at = _invert(weights, random.random())
        return at if tokens is None else int(tokens[at])


def _penalties(
    params: SamplingParams, prompt: Sequence[int] | NDArray[np.int64]
) -> Penalties | None:
    if (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0, 0, 1):
        return None
    return Penalties(
        presence=params.presence_penalty,
        frequency=params.frequency_penalty,
        repetition=params.repetition_penalty,
        prompt=prompt,
    )


def _not_finite(best: int, value: float) -> EngineError:
    if value == -np.inf:
        return EngineError(
            "no token may come next: every one of them is masked",
            hint="look at the request's constraint; it allows no way on from here",
        )
    return EngineError(
        f"the model's logits are not finite (token {best}: {value})",
        hint="check the artifact with `fungible artifact verify`",
    )


def _shortlist(
    logits: NDArray[np.float32], best: int, params: SamplingParams
) -> NDArray[np.int64] | None:
    """Ids that `min_p` and `top_k` leave, in order; `None` when that is all of them."""
    floor = np.float32(-np.inf)
    if params.min_p > 0:
        floor = logits[best] + np.float32(params.temperature * math.log(params.min_p))
    if 0 < params.top_k < logits.size:
        floor = max(floor, _kth_largest(logits, params.top_k))
    return np.flatnonzero(logits >= floor) if floor > -np.inf else None


def _kth_largest(values: NDArray[np.float32], k: int) -> np.float32:
    """The `k`-th largest of `values`; `k` is at most their number.

    The k-th largest of the maxima of disjoint groups is at most the k-th largest value, and
    few values reach it: only those are looked at closer.
    """
    groups = values.size // _GROUP
    if k <= groups // 2:
        whole = values[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
        values = values[values >= np.partition(whole, groups - k)[groups - k]]
    edge: np.float32 = np.partition(values, values.size - k)[values.size - k]
    return edge


def _invert(weights: NDArray[np.float32], uniform: float) -> int:
    """Index drawn in proportion to `weights` (inverse of the cumulative distribution).

    First the block, then the index in it: a cumulative sum over a whole vocabulary takes forty
    times as long.
    """
    starts = np.arange(0, weights.size, _BLOCK)
    cumulative = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    block, rest = _search(cumulative, uniform * cumulative[-1])
    inside = np.cumsum(weights[starts[block] : starts[block] + _BLOCK], dtype=np.float64)
    index, _ = _search(inside, rest)
    return int(starts[block]) + index


def _search(cumulative: NDArray[np.float64], point: float) -> tuple[int, float]:
    """Where `point` falls, and how far into that place; never past the last positive step."""
    point = min(point, np.nextafter(cumulative[-1], 0))
    at = int(np.searchsorted(cumulative, point, side="right"))
    return at, float(point - (cumulative[at - 1] if at else 0.0))


def _nucleus_edge(weights: NDArray[np.float32], top_p: float) -> np.float32:
    """Weight of the least likely token among the fewest that together hold `top_p`.

    Tokens below (1 − top_p) / vocab hold at most 1 − top_p together, so the nucleus lies in
    the rest, which is short enough to sort.
    """
    total = weights.sum(dtype=np.float64)
    likely = np.sort(weights[weights >= (1 - top_p) * total / weights.size])[::-1]
    cumulative = np.cumsum(likely, dtype=np.float64)
    edge: np.float32 = likely[min(np.searchsorted(cumulative, top_p * total), likely.size - 1)]
    return edge


def log_probabilities(
    logits: NDArray[np.float32], token: int, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Natural-log probability of `token` and the `count` most likely tokens with theirs.

    The distribution is the one of `logits` over the whole vocabulary, whatever tokens are
    chosen by. Equally likely tokens come in order of their ids.
    """
    peak = logits.max()
    normaliser = float(peak) + np.log(np.exp(logits - peak).sum(dtype=np.float64))

    def logprob(one: int) -> float:
        return max(float(logits[one]) - float(normaliser), _IMPOSSIBLE)

    if count == 0:
        return logprob(token), ()
    count = min(count, logits.size)
    likely = np.flatnonzero(logits >= _kth_largest(logits, count))
    likely = likely[np.argsort(-logits[likely], kind="stable")][:count]
    return logprob(token), tuple((one, logprob(one)) for one in likely.tolist())
