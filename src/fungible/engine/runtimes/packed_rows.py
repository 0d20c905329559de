"""The past of the slots that decode together, packed tightly and kept from step to step.

A graph takes the past as `[B, kv_heads, P, head_dim]`: only sequences of the batch, side by side,
and no longer than the longest needs. A slot keeps its row while it goes on decoding, so a slot
that joins or leaves costs a copy of one row at most.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungible.engine.runtimes.graph_step import GraphStep
from fungible.engine.runtimes.pages import untouched

# Room grows in steps: it is made anew rarely and pads little.
_ROOM = 64
# Where shapes are kept: a change costs OpenVINO about 10 ms, an idle row 0.6 ms (135M weights).
_IDLE = 16


class PackedRows:
    """Rows for slots of a cache, and the steps over the rows in use.

    The array is `[2·layers, slots, kv_heads, room, head_dim]`, so the first rows of each layer are
    contiguous and a graph runs on them where they are. Another room reads the same memory in
    another shape; everything is then copied from the cache again. What a row holds beyond its
    slot's length is left from others: finite numbers, which a mask makes nothing of.

    Args:
        cache: Keys and values of the slots, `[2·layers, slots, kv_heads, context, head_dim]`.
        vocab: Tokens of the vocabulary.
        steady: Another number of rows costs the graph time: when slots leave, their rows stay in
            the step, idle, until they have cost as much as going on without them.

    Attributes:
        slots: The slot of each row in use.
        room: Tokens that a row can hold.
        copied: Tokens copied from the cache so far.
    """

    def __init__(self, cache: NDArray[Any], vocab: int, *, steady: bool = False) -> None:
        self.slots: list[int] = []
        self.room = 0
        self.copied = 0
        self._cache = cache
        self._vocab = vocab
        self._steady = steady
        self._memory = untouched([cache.size], cache.dtype.type)
        self._filled: list[int] = []  # by row: tokens that it shares with its slot
        self._steps: dict[int, GraphStep] = {}  # by the number of rows
        self._padded = 0
        self._running = 0  # rows of the last step
        self._idle = 0

    def prepare(self, slots: Sequence[int], lengths: Sequence[int]) -> GraphStep:
        """The step that adds a token to each of the slots; row by row they are `self.slots`.

        Rows after these are idle: they look at nothing but a new token that nobody asked for.

        Args:
            slots: Distinct slots.
            lengths: Tokens that each slot of the cache holds; those that decode are not full.
        """
        self._seat(slots)
        held = [lengths[slot] for slot in self.slots]
        self._make_room(held)
        step = self._step(self._rows(len(held)))
        for row, (slot, filled, length) in enumerate(
            zip(self.slots, self._filled, held, strict=True)
        ):
            if filled < length:
                step.past[:, row, :, filled:length] = self._cache[:, slot, :, filled:length]
                self._filled[row] = length
                self.copied += length - filled
        ends = np.zeros((len(step.ids), 1), np.int64)
        ends[: len(held), 0] = held
        step.mask[:, 0, 0, : self.room] = np.arange(self.room) < ends
        step.positions[:] = ends
        return step

    def append(self) -> None:
        """Keep the last step's new keys and values, here and in the slots."""
        step = self._step(self._running)
        for row, (slot, length) in enumerate(zip(self.slots, self._filled, strict=True)):
            added = step.added[:, row, :, 0]
            self._cache[:, slot, :, length] = added
            step.past[:, row, :, length] = added
            self._filled[row] = length + 1

    def forget(self, slot: int, length: int) -> None:
        """Only the first `length` tokens of a slot are still what its row holds."""
        if slot in self.slots:
            row = self.slots.index(slot)
            self._filled[row] = min(self._filled[row], length)

    def _seat(self, slots: Sequence[int]) -> None:
        """Give each slot a row: its own, that of one who left, or a new one."""
        asked, seated = set(slots), set(self.slots)
        coming = [slot for slot in slots if slot not in seated]
        gone = [row for row, slot in enumerate(self.slots) if slot not in asked]
        while coming and gone:
            row = gone.pop(0)
            self.slots[row], self._filled[row] = coming.pop(0), 0
        for row in reversed(gone):  # the last row is one that stays, or this one
            last, _ = self.slots.pop(), self._filled.pop()
            if row < len(self.slots):
                self.slots[row], self._filled[row] = last, 0
        self.slots += coming
        self._filled += [0] * len(coming)

    def _make_room(self, held: Sequence[int]) -> None:
        """Grow when it must; shrink the room when padding has cost what copying would."""
        context = self._cache.shape[3]
        rows = len(held)
        need = min(-(-(max(held) + 1) // _ROOM) * _ROOM, context)
        wasteful = need < self.room and self._padded > sum(held)
        if need > self.room or wasteful:
            self.room = need
            self._filled = [0] * rows
            self._steps.clear()
            self._padded = 0
        self._padded += (self.room - need) * rows

    def _rows(self, wanted: int) -> int:
        spare = self._running - wanted
        if not self._steady or spare < 0 or self._idle + spare > _IDLE:
            self._running, self._idle = wanted, 0
            return wanted
        self._idle += spare
        return self._running

    def _step(self, rows: int) -> GraphStep:
        """The step over the first rows, bound once for as long as the room stays."""
        if rows not in self._steps:
            caches, slots, kv_heads, _, head_dim = self._cache.shape
            if slots not in self._steps:
                shape = (caches, slots, kv_heads, self.room, head_dim)
                past = self._memory[: prod(shape)].reshape(shape)
                mask = np.ones((slots, 1, 1, self.room + 1), np.bool_)
                self._steps[slots] = GraphStep(past, mask, list(range(slots)), self._vocab)
            self._steps.setdefault(rows, self._steps[slots].first(rows))
        return self._steps[rows]
