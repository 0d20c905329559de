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
        with np.errstate(under="ignore"):
            weights = np.exp((logits - logits[best]) / np.float32(self._params.temperature))
        if self._params.top_p < 1:
            tokens = _nucleus(weights, self._params.top_p)
            at = _invert(weights[tokens], random.random())
            return int(tokens[at])
        return _invert(weights, random.random())


def _invert(weights: NDArray[np.float32], uniform: float) -> int:
    """Index drawn in proportion to `weights` (inverse of the cumulative distribution)."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    # Just under the total, so that rounding never points past the last positive weight.
    point = min(uniform * cumulative[-1], np.nextafter(cumulative[-1], 0))
    return int(np.searchsorted(cumulative, point, side="right"))


def _nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.intp]:
    """The fewest most likely tokens that together hold `top_p`, most likely first.

    Tokens below (1 − top_p) / vocab hold at most 1 − top_p together, so the nucleus lies in
    the rest, which is short enough to sort.
    """
    total = weights.sum(dtype=np.float64)
    candidates = np.flatnonzero(weights >= (1 - top_p) * total / weights.size)
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    cumulative = np.cumsum(weights[order], dtype=np.float64)
    return order[: int(np.searchsorted(cumulative, top_p * total)) + 1]


def log_probabilities(
    logits: NDArray[np.float32], token: int, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Natural-log probability of `token` and the `count` most likely tokens with theirs.

    The distribution is the model's own over the whole vocabulary, before temperature and
    top_p. Computed in float64.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    with np.errstate(under="ignore"):
        shifted -= np.log(np.exp(shifted).sum())
    np.maximum(shifted, _IMPOSSIBLE, out=shifted)
    if count == 0:
        return float(shifted[token]), ()
    count = min(count, shifted.size)
    likely = np.argpartition(-logits, count - 1)[:count]
    likely = likely[np.lexsort((likely, -logits[likely]))]
    return float(shifted[token]), tuple((int(one), float(shifted[one])) for one in likely)
