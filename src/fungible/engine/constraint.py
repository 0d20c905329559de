"""What limits the tokens of an answer: the seam between sampling and a grammar library."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Matcher(Protocol):
    """The state of one answer under a constraint; only the engine's worker touches it."""

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits `(vocab,)` of tokens that may not come next to minus infinity."""
        ...

    def accept(self, token: int) -> None:
        """The token was chosen.

        Raises:
            EngineError: It was not allowed.
        """
        ...

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token may follow."""
        ...


class Constraint(Protocol):
    """A compiled grammar that many answers may share."""

    def start(self) -> Matcher:
        """The state before an answer's first token."""
        ...
