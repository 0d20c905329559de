"""The key/value cache of runtimes whose graph keeps no state.

The cache is ours: `[2·layers, slots, kv_heads, context, head_dim]`, keys and values of a layer
side by side. The graph takes the past and returns only what is new, so a step's cost does not
grow with copies of the cache: for decoding, the past of the batch is kept in a second, tightly
packed array (`packed_rows.py`) that is appended to in place.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.model_config import ModelConfig
from fungible.engine.runtimes.base import Logits, RuntimeLimits
from fungible.engine.runtimes.graph_step import GraphStep
from fungible.engine.runtimes.packed_rows import PackedRows
from fungible.engine.runtimes.pages import untouched
from fungible.engine.runtimes.slot_lengths import SlotLengths
from fungible.errors import InputError

# Where shapes are kept, prompts are run in multiples of so many tokens.
_GRAIN = 16


class SlotCache:
    """Everything of `Runtime` but the call of the graph.

    Args:
        config: The model's shape.
        limits: Slots, context and vocabulary.
        run: Executes the graph on a step's buffers.
        dtype: Of keys and values: float32, or uint16 for the bits of bfloat16.
        steady: A shape that the graph has not just run costs it time. Pieces of prompts are then
            padded to few lengths, with tokens that no other sees, and batches shrink with delay.
    """

    def __init__(
        self,
        config: ModelConfig,
        limits: RuntimeLimits,
        run: Callable[[GraphStep], None],
        *,
        dtype: type[np.generic] = np.float32,
        steady: bool = False,
    ) -> None:
        self._limits = limits
        self._run = run
        self._grain = _GRAIN if steady else 1
        shape = (2 * config.layers, limits.slots, config.kv_heads, limits.context, config.head_dim)
        # Zeros, not garbage: masked positions are still multiplied.
        self._cache = untouched(shape, dtype)
        self._lengths = SlotLengths(limits)
        self._packed = PackedRows(self._cache, limits.vocab, steady=steady)

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
            self._lengths.require_room(slot, 1)
        step = self._packed.prepare(slots, self._lengths)
        row_of = {slot: row for row, slot in enumerate(self._packed.slots)}
        rows = [row_of[slot] for slot in slots]
        step.ids[rows, 0] = tokens
        self._run(step)
        self._packed.append()
        for slot in slots:
            self._lengths[slot] += 1
        logits: Logits = step.logits[rows]
        return logits

    def fork(self, source: int, slot: int, length: int) -> None:
        """See `Runtime.fork`.

        Raises:
            InputError: The slot is not empty, or `source` holds fewer tokens.
        """
        self._lengths.require_empty(slot)
        self._lengths.require_held(source, length)
        self._cache[:, slot, :, :length] = self._cache[:, source, :, :length]
        self._lengths[slot] = length
        self._packed.forget(slot, 0)

    def truncate(self, slot: int, length: int) -> None:
        """See `Runtime.truncate`.

        Raises:
            InputError: The slot holds fewer tokens.
        """
        self._lengths.require_held(slot, length)
        self._lengths[slot] = length
        self._packed.forget(slot, length)

    def release(self, slot: int) -> None:
        """See `Runtime.release`."""
        self.truncate(slot, 0)

    def close(self) -> None:
        """Free the cache."""
        self._cache = np.zeros((0, 0, 0, 0, 0), np.float32)
        self._packed = PackedRows(self._cache, 0)

    def _append(self, slot: int, tokens: NDArray[np.int64], wanted: list[int]) -> Logits:
        if len(tokens) == 0:
            raise InputError("no tokens to prefill", hint="a prompt has at least one token")
        self._lengths.require_room(slot, len(tokens))
        past, count = self._lengths[slot], len(tokens)
        padded = -(-count // self._grain) * self._grain
        ahead = np.tril(np.ones((padded, padded), np.bool_))
        mask = np.concatenate([np.ones((padded, past), np.bool_), ahead], axis=1)
        held = np.ascontiguousarray(self._cache[:, slot : slot + 1, :, :past])
        step = GraphStep(held, mask[None, None], wanted, self._limits.vocab)
        step.ids[0, :count] = tokens
        step.positions[0] = np.minimum(np.arange(past, past + padded), self._limits.context - 1)
        self._run(step)
        self._cache[:, slot, :, past : past + count] = step.added[:, 0, :, :count]
        self._lengths[slot] = past + count
        return step.logits
