"""The seam between the scheduler and a library that executes graphs.

A runtime owns the key/value cache of a fixed number of slots, each with the same context
length. One thread calls it, one call at a time. Slots are independent: what is in one never
changes the logits of another beyond floating-point reduction order.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class RuntimeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Fixed sizes: requests at once, tokens per slot, tokens in the vocabulary."""

    slots: int
    context: int
    vocab: int


class Runtime(Protocol):
    """Executes one artifact variant on one device."""

    limits: RuntimeLimits

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """Append prompt tokens `(S,)` to a slot; float32 logits `(vocab,)` after the last one.

        A released slot starts empty; calling again continues where the slot ended.
        """
        ...

    def decode(self, slots: Sequence[int], tokens: NDArray[np.int64]) -> Logits:
        """Append one token to each slot of `slots`; float32 logits `(len(slots), vocab)`."""
        ...

    def score(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """Append prompt tokens `(S,)` to a slot; float32 logits `(S, vocab)` after each of them.

        Slower than `prefill`, with the same effect on the slot.
        """
        ...

    def fork(self, source: int, slot: int, length: int) -> None:
        """Make an empty slot hold the first `length` tokens of `source`, which stays as it is."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget a slot's tokens after the first `length`."""
        ...

    def release(self, slot: int) -> None:
        """Empty a slot."""
        ...

    def close(self) -> None:
        """Free memory; the runtime is not used afterwards."""
        ...
