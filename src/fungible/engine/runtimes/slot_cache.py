"""The key/value cache of runtimes whose graph keeps no state, and the buffers of their steps.

The cache is ours: `[2·layers, slots, kv_heads, context, head_dim]`, keys and values of a layer
side by side. The graph takes the past and returns only what is new, so a step's cost does not
grow with copies of the cache: for decoding, the past of the batch is kept in a second, tightly
packed array that is appended to in place and rebuilt only when the set of slots changes or its
room is used up.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.model_config import ModelConfig
from fungible.engine.runtimes.base import Logits, RuntimeLimits
from fungible.errors import ContextLengthError, InputError

# The packed past grows in steps, so that it is rebuilt rarely and padded little.
_ROOM = 64


class GraphStep:
    """The buffers of one call of the graph; inputs are written and outputs read in place.

    Attributes:
        past: Float32 `[2·layers, B, kv_heads, P, head_dim]`.
        mask: Boolean `[B, 1, S, P + S]`.
        ids: Tokens, int64 `[B, S]`; `positions` likewise.
        wanted: Rows of the flattened tokens whose logits are wanted, int64 `[N]`.
        added: The new keys and values, shaped like `past` with S instead of P.
        logits: Float32 `[N, vocab]`.
        bound: For the runtime: what it made of these buffers, kept as long as they are.
    """

    def __init__(
        self, past: NDArray[np.float32], mask: NDArray[np.bool_], wanted: list[int], vocab: int
    ) -> None:
        caches, rows, kv_heads, _, head_dim = past.shape
        new = mask.shape[2]
        self.past = past
        self.mask = mask
        self.ids = np.zeros((rows, new), np.int64)
        self.positions = np.zeros((rows, new), np.int64)
        self.wanted = np.array(wanted, np.int64)
        self.added = np.zeros((caches, rows, kv_heads, new, head_dim), np.float32)
        self.logits = np.zeros((len(wanted), vocab), np.float32)
        self.bound: Any = None

    def inputs(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The graph's inputs by name."""
        yield "input_ids", self.ids
        yield "position_ids", self.positions
        yield "attention_mask", self.mask
        yield "logits_index", self.wanted
        for name, array in _named(self.past):
            yield f"past_{name}", array

    def outputs(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The graph's outputs by name."""
        yield "logits", self.logits
        for name, array in _named(self.added):
            yield f"new_{name}", array


def _named(caches: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for index, array in enumerate(caches):
        yield f"{'value' if index % 2 else 'key'}.{index // 2}", array


class SlotCache:
    """Everything of `Runtime` but the call of the graph.

    Args:
        config: The model's shape.
        limits: Slots, context and vocabulary.
        run: Executes the graph on a step's buffers.
    """

    def __init__(
        self, config: ModelConfig, limits: RuntimeLimits, run: Callable[[GraphStep], None]
    ) -> None:
        self._limits = limits
        self._run = run
        shape = (2 * config.layers, limits.slots, config.kv_heads, limits.context, config.head_dim)
        # Zeros, not garbage: masked positions are still multiplied. Pages that no token
        # reaches are never touched, so they cost no memory.
        self._cache = np.zeros(shape, np.float32)
        self._lengths = [0] * limits.slots
        self._batch = _Batch(self._cache, (), 0, limits.vocab)

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.prefill`.

        Raises:
            ContextLengthError: The slot has no room for the tokens.
            InputError: There are no tokens, or no such slot.
        """
        logits: Logits = self._append(slot, tokens, [len(tokens) - 1])[0]
        return logits

    def score(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.score`; raises what `prefill` raises."""
        return self._append(slot, tokens, list(range(len(tokens))))

    def decode(self, slots: Sequence[int], tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.decode`.

        Raises:
            ContextLengthError: One of the slots is full.
            InputError: The slots are not distinct, or not as many as the tokens.
        """
        if not slots or len(tokens) != len(slots) or len(set(slots)) != len(slots):
            raise InputError(f"decode needs one token for each of some distinct slots, got {slots}")
        for slot in slots:
            self._require_room(slot, 1)
        lengths = [self._lengths[slot] for slot in slots]
        batch = self._batch
        if not batch.fits(tuple(slots), max(lengths)):
            room = min(-(-(max(lengths) + 1) // _ROOM) * _ROOM, self._limits.context)
            batch = self._batch = _Batch(self._cache, tuple(slots), room, self._limits.vocab)
        step = batch.prepare(lengths)
        step.ids[:, 0] = tokens
        self._run(step)
        batch.append(lengths)
        for slot, length in zip(slots, lengths, strict=True):
            self._lengths[slot] = length + 1
        return step.logits.copy()

    def fork(self, source: int, slot: int, length: int) -> None:
        """See `Runtime.fork`.

        Raises:
            InputError: The slot is not empty, or `source` holds fewer tokens.
        """
        self._require_room(slot, 0)
        if self._lengths[slot]:
            raise InputError(f"slot {slot} holds {self._lengths[slot]} tokens; it must be empty")
        self._require_held(source, length)
        self._cache[:, slot, :, :length] = self._cache[:, source, :, :length]
        self._lengths[slot] = length
        self._batch.forget(slot, 0)

    def truncate(self, slot: int, length: int) -> None:
        """See `Runtime.truncate`.

        Raises:
            InputError: The slot holds fewer tokens.
        """
        self._require_held(slot, length)
        self._lengths[slot] = length
        self._batch.forget(slot, length)

    def release(self, slot: int) -> None:
        """See `Runtime.release`."""
        self.truncate(slot, 0)

    def close(self) -> None:
        """Free the cache."""
        self._cache = np.zeros((0, 0, 0, 0, 0), np.float32)
        self._batch = _Batch(self._cache, (), 0, 0)

    def _append(self, slot: int, tokens: NDArray[np.int64], wanted: list[int]) -> Logits:
        if len(tokens) == 0:
            raise InputError("no tokens to prefill", hint="a prompt has at least one token")
        self._require_room(slot, len(tokens))
        past, count = self._lengths[slot], len(tokens)
        ahead = np.tril(np.ones((count, count), np.bool_))
        mask = np.concatenate([np.ones((count, past), np.bool_), ahead], axis=1)
        held = np.ascontiguousarray(self._cache[:, slot : slot + 1, :, :past])
        step = GraphStep(held, mask[None, None], wanted, self._limits.vocab)
        step.ids[0] = tokens
        step.positions[0] = np.arange(past, past + count)
        self._run(step)
        self._cache[:, slot, :, past : past + count] = step.added[:, 0]
        self._lengths[slot] = past + count
        return step.logits

    def _require_room(self, slot: int, count: int) -> None:
        if not 0 <= slot < self._limits.slots:
            raise InputError(f"slot {slot} is not one of {self._limits.slots}")
        past, context = self._lengths[slot], self._limits.context
        if past + count > context:
            raise ContextLengthError(
                f"slot {slot} holds {past} of {context} tokens; {count} more do not fit",
                hint="shorten the prompt, or raise the engine's context",
            )

    def _require_held(self, slot: int, length: int) -> None:
        self._require_room(slot, 0)
        if not 0 <= length <= self._lengths[slot]:
            raise InputError(f"slot {slot} holds {self._lengths[slot]} tokens, not {length}")


class _Batch:
    """The packed past of a set of slots, with room for `room` tokens in each row."""

    def __init__(
        self, cache: NDArray[np.float32], slots: tuple[int, ...], room: int, vocab: int
    ) -> None:
        caches, _, kv_heads, _, head_dim = cache.shape
        rows = len(slots)
        self.slots = slots
        self.room = room
        self._cache = cache
        self._filled = [0] * rows
        past = np.zeros((caches, rows, kv_heads, room, head_dim), np.float32)
        mask = np.ones((rows, 1, 1, room + 1), np.bool_)
        self._step = GraphStep(past, mask, list(range(rows)), vocab)

    def fits(self, slots: tuple[int, ...], longest: int) -> bool:
        """Whether these slots are the rows and there is room for one more token in each."""
        return slots == self.slots and longest < self.room

    def prepare(self, lengths: Sequence[int]) -> GraphStep:
        """The step that appends to rows of these lengths; copies what the rows lack."""
        for row, (slot, filled, length) in enumerate(
            zip(self.slots, self._filled, lengths, strict=True)
        ):
            if filled < length:
                piece = self._cache[:, slot, :, filled:length]
                self._step.past[:, row, :, filled:length] = piece
                self._filled[row] = length
        ends = np.array(lengths, dtype=np.int64)[:, None]
        self._step.mask[:, 0, 0, : self.room] = np.arange(self.room) < ends
        self._step.positions[:] = ends
        return self._step

    def append(self, lengths: Sequence[int]) -> None:
        """Keep the step's new keys and values, here and in the slots."""
        for row, (slot, length) in enumerate(zip(self.slots, lengths, strict=True)):
            added = self._step.added[:, row, :, 0]
            self._cache[:, slot, :, length] = added
            self._step.past[:, row, :, length] = added
            self._filled[row] = length + 1

    def forget(self, slot: int, length: int) -> None:
        """Only the first `length` tokens of a slot are still what the row holds."""
        if slot in self.slots:
            row = self.slots.index(slot)
            self._filled[row] = min(self._filled[row], length)
