"""Which slot a prompt goes to, so that as little of it as possible is run again.

A slot that ended an answer keeps its tokens until another prompt needs the room. A prompt
that begins like what some slot holds starts from there: in the same slot, or in another one
that gets a copy (the idea of vLLM's prefix cache and SGLang's RadixAttention, Zheng et al.,
2024, at the granularity of our slots).

Only whole pieces of a prompt are taken over, as the scheduler cuts them, and nothing that was
decoded: kernels round differently for one token than for many, so a prompt cut elsewhere would
change the answers of quantised variants. What is taken over here is, number by number, what
running the prompt would have put there.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.engine.runtimes.base import Runtime


class Placement(msgspec.Struct, frozen=True):
    """Where a prompt starts: `slot` takes the first `reused` tokens from `source`."""

    slot: int
    source: int
    reused: int


class SlotTable:
    """What each slot of a runtime holds; only the engine's worker touches it.

    Args:
        runtime: Its slots are empty.
        piece: Tokens of a piece; prompts are cut at its multiples.
        reuse: Keep the tokens of ended answers, and start prompts from what slots hold.
    """

    def __init__(self, runtime: Runtime, *, piece: int, reuse: bool) -> None:
        self._runtime = runtime
        self._piece = piece
        self._reuse = reuse
        limits = runtime.limits
        self._tokens = np.zeros((limits.slots, limits.context), np.int64)
        self._lengths = [0] * limits.slots
        self._whole = [0] * limits.slots  # tokens at the start that were run in whole pieces
        self._free = list(range(limits.slots))  # the least recently used first
        self._busy: set[int] = set()
        self._ended: list[int] = []

    @property
    def free(self) -> int:
        """Slots that a prompt could take now."""
        return len(self._free)

    def held(self, slot: int) -> int:
        """Tokens in a slot."""
        return self._lengths[slot]

    def total(self) -> int:
        """Tokens of the answers being made."""
        return sum(self._lengths[slot] for slot in self._busy)

    def place(
        self, prompt: NDArray[np.int64], coming: Sequence[NDArray[np.int64]], *, reuse: bool = True
    ) -> Placement | None:
        """Where a prompt should start; `None` when it had better wait for one that is being run.

        The last token is always run: its logits choose the answer's first token.

        Args:
            prompt: Its tokens `(S,)`.
            coming: Prompts that are not through yet.
            reuse: Whether it may start from what a slot holds.
        """
        if not (reuse and self._reuse):
            slot = self._cheapest()
            return Placement(slot, slot, 0)
        wanted = prompt[:-1]
        shared = {slot: self._shared(slot, wanted) for slot in [*self._free, *self._busy]}
        source = max(shared, key=lambda slot: (shared[slot], slot in self._free))
        reused = shared[source]
        later = max((common_prefix(one, wanted) for one in coming), default=0)
        if later // self._piece * self._piece > reused:
            return None
        if not reused:
            return Placement(self._cheapest(), source, 0)
        return Placement(self._target(source, reused), source, reused)

    def take(self, placement: Placement) -> None:
        """Hold a slot, with its start in it."""
        slot, source, reused = placement.slot, placement.source, placement.reused
        if source == slot and reused:
            if reused < self._lengths[slot]:
                self._runtime.truncate(slot, reused)
        else:
            self._empty(slot)
            if reused:
                self._runtime.fork(source, slot, reused)
                self._tokens[slot, :reused] = self._tokens[source, :reused]
        self._lengths[slot] = self._whole[slot] = reused
        self._free.remove(slot)
        self._busy.add(slot)

    def append(self, slot: int, tokens: NDArray[np.int64], *, prefill: bool = False) -> None:
        """The runtime ran these tokens in a slot; `prefill` when they were a piece of a prompt."""
        at = self._lengths[slot]
        if prefill and at == self._whole[slot] and len(tokens) == self._piece:
            self._whole[slot] += self._piece
        self._tokens[slot, at : at + len(tokens)] = tokens
        self._lengths[slot] = at + len(tokens)

    def end(self, slot: int) -> None:
        """No answer needs the slot any more; `recycle` makes it free."""
        self._busy.discard(slot)
        self._ended.append(slot)

    def recycle(self, *, trusted: bool = True) -> None:
        """Make ended slots free.

        Args:
            trusted: Whether the slots still hold what they should; otherwise all that are
                not busy are emptied.
        """
        while self._ended:
            slot = self._ended[0]
            if not self._reuse:
                self._empty(slot, always=True)
            self._free.append(self._ended.pop(0))
        if not trusted:
            for slot in self._free:
                self._empty(slot, always=True)

    def _target(self, source: int, reused: int) -> int:
        """The slot itself when little of it would be lost, else the one least worth keeping."""
        if source in self._free and 2 * reused >= self._lengths[source]:
            return source
        return self._cheapest()

    def _cheapest(self) -> int:
        return next((slot for slot in self._free if not self._lengths[slot]), self._free[0])

    def _empty(self, slot: int, *, always: bool = False) -> None:
        if always or self._lengths[slot]:
            self._runtime.release(slot)
            self._lengths[slot] = self._whole[slot] = 0

    def _shared(self, slot: int, wanted: NDArray[np.int64]) -> int:
        same = common_prefix(self._tokens[slot, : self._whole[slot]], wanted)
        return same // self._piece * self._piece


def common_prefix(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many tokens two rows share at their start."""
    count = min(len(one), len(other))
    differ = one[:count] != other[:count]
    return int(differ.argmax()) if differ.any() else count
