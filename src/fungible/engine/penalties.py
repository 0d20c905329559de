"""What a request adds to the model's logits before tokens are chosen: biases and penalties."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


class LogitBias:
    """Adds a fixed number to the logits of some tokens.

    Args:
        bias: Token to what is added; not empty.
    """

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._tokens = np.fromiter(bias.keys(), dtype=np.int64, count=len(bias))
        self._values = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change float32 logits `(vocab,)` in place."""
        logits[self._tokens] += self._values


class Penalties:
    """Makes tokens less likely that are there already; negative penalties do the opposite.

    With `c` the times that a token was sampled for this answer, its logit `l` becomes

    1. for tokens of the prompt or the answer: `l / repetition` when positive, else
       `l × repetition` (Keskar et al., 2019, as in transformers and vLLM);
    2. `l − frequency × c − presence × (c > 0)`, OpenAI's formula, which looks at the answer alone.

    Args:
        prompt: Token ids; only the repetition penalty looks at them.
    """

    def __init__(
        self,
        *,
        presence: float = 0.0,
        frequency: float = 0.0,
        repetition: float = 1.0,
        prompt: Sequence[int] | NDArray[np.int64] = (),
    ) -> None:
        self._presence = np.float32(presence)
        self._frequency = np.float32(frequency)
        self._repetition = np.float32(repetition)
        first: list[int] = [] if repetition == 1 else np.unique(prompt).tolist()
        self._place = {token: at for at, token in enumerate(first)}
        self._tokens = np.array([*first, *[0] * 64], dtype=np.int64)
        self._counts = np.zeros(len(self._tokens), dtype=np.float32)

    def remember(self, token: int) -> None:
        """A token was sampled."""
        at = self._place.setdefault(token, len(self._place))
        if at == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[at] = token
        self._counts[at] += 1

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change float32 logits `(vocab,)` in place."""
        size = len(self._place)
        tokens, counts = self._tokens[:size], self._counts[:size]
        values = logits[tokens]
        if self._repetition != 1:
            values = np.where(values > 0, values / self._repetition, values * self._repetition)
        logits[tokens] = values - self._frequency * counts - self._presence * (counts > 0)
