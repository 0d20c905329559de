"""From logits to one token, and to the log-probabilities that clients ask for.

Temperature and nucleus sampling (Holtzman et al., 2020). The same seed and the same logits
give the same tokens: each request draws from its own counter-based generator (Philox,
Salmon et al., 2011), one number a token, whatever else runs beside it.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.errors import EngineError

_COLDEST = 1e-5  # below it, dividing by the temperature overflows float32: greedy, as in vLLM
_BLOCK = 256
_IMPOSSIBLE = -9999.0  # OpenAI's stand-in for a log-probability of minus infinity


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens; the defaults are OpenAI's.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: Share of probability that may be drawn from; 0 takes the most likely token.
        seed: `None` draws one from the operating system.
        top_logprobs: Alternatives to report a token; `None` reports no log-probabilities.
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
    """Chooses the tokens of one request."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        greedy = params.temperature < _COLDEST or params.top_p == 0
        key = None if params.seed is None else params.seed % (1 << 64)
        self._random = None if greedy else np.random.Generator(np.random.Philox(key=key))

    def sample(self, logits: NDArray[np.float32]) -> Sampled:
        """One token from float32 logits `(vocab,)`.

        Raises:
            EngineError: The logits hold NaN or infinity.
        """
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            raise EngineError(
                f"the model's logits are not finite (token {best}: {logits[best]})",
                hint="check the artifact with `fungible artifact verify`",
            )
        token = best if self._random is None else self._draw(logits, best, self._random)
        if self._params.top_logprobs is None:
            return Sampled(token)
        logprob, top = log_probabilities(logits, token, self._params.top_logprobs)
        return Sampled(token, logprob, top)

    def _draw(self, logits: NDArray[np.float32], best: int, random: np.random.Generator) -> int:
        weights = np.exp((logits - logits[best]) / np.float32(self._params.temperature))
        if self._params.top_p < 1:
            weights[weights < _nucleus_edge(weights, self._params.top_p)] = 0
        return _invert(weights, random.random())


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

    The distribution is the model's own over the whole vocabulary, before temperature and
    top_p. Equally likely tokens come in order of their ids.
    """
    peak = logits.max()
    normaliser = float(peak) + np.log(np.exp(logits - peak).sum(dtype=np.float64))

    def logprob(one: int) -> float:
        return max(float(logits[one]) - float(normaliser), _IMPOSSIBLE)

    if count == 0:
        return logprob(token), ()
    count = min(count, logits.size)
    edge = np.partition(logits, logits.size - count)[logits.size - count]
    likely = np.flatnonzero(logits >= edge)
    likely = likely[np.argsort(-logits[likely], kind="stable")][:count]
    return logprob(token), tuple((one, logprob(one)) for one in likely.tolist())
