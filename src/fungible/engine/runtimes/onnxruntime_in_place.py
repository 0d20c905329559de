"""ONNX Runtime on graphs that append to the cache themselves: `artifacts/onnx_ort_graph.py`.

The graph reads and writes the same memory, so a step copies no past. A step needs its sequences
in neighbouring rows of the cache; a slot's row is therefore looked up, and slots that decode
together are moved to the first rows when they are not there yet.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fungible.artifacts.model_config import ModelConfig
from fungible.engine.runtimes.base import Logits, RuntimeLimits
from fungible.engine.runtimes.pages import untouched
from fungible.engine.runtimes.slot_lengths import SlotLengths
from fungible.errors import InputError

_CPU = "cpu"


class InPlaceRuntime:
    """Runs one variant of an artifact; see `Runtime`.

    Args:
        session: The loaded graph.
        config: The model's shape.
        limits: Slots, context and vocabulary.
    """

    def __init__(
        self, session: ort.InferenceSession, config: ModelConfig, limits: RuntimeLimits
    ) -> None:
        self.limits = limits
        self._session: ort.InferenceSession | None = session
        shape = (2 * config.layers, limits.slots, config.kv_heads, limits.context, config.head_dim)
        self._cache = untouched(shape, np.float32)
        self._lengths = SlotLengths(limits)
        self._rows = list(range(limits.slots))
        # By the number of sequences: bound once, as the first rows never move.
        self._decoding: dict[int, _Step] = {}

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
        count = len(slots)
        if not count or len(tokens) != count or len(set(slots)) != count:
            raise InputError(f"decode needs one token for each of some distinct slots, got {slots}")
        for slot in slots:
            self._lengths.require_room(slot, 1)
        self._gather(slots)
        rows = [self._rows[slot] for slot in slots]
        step = self._decoding.get(count)
        if step is None:
            first = self._cache[:, :count]
            step = self._decoding[count] = _Step(
                first, (count, 1), list(range(count)), self.limits.vocab
            )
        step.ids[rows, 0] = tokens
        step.last[rows] = [self._lengths[slot] for slot in slots]
        self._run(step)
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
        start, end = self._rows[source], self._rows[slot]
        self._cache[:, end, :, :length] = self._cache[:, start, :, :length]
        self._lengths[slot] = length

    def truncate(self, slot: int, length: int) -> None:
        """See `Runtime.truncate`.

        Raises:
            InputError: The slot holds fewer tokens.
        """
        self._lengths.require_held(slot, length)
        self._lengths[slot] = length

    def release(self, slot: int) -> None:
        """See `Runtime.release`."""
        self.truncate(slot, 0)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._decoding.clear()
        self._session = None
        self._cache = np.zeros((0, 0, 0, 0, 0), np.float32)

    def _append(self, slot: int, tokens: NDArray[np.int64], wanted: list[int]) -> Logits:
        if len(tokens) == 0:
            raise InputError("no tokens to prefill", hint="a prompt has at least one token")
        self._lengths.require_room(slot, len(tokens))
        row, length = self._rows[slot], self._lengths[slot] + len(tokens)
        past = self._cache[:, row : row + 1]
        step = _Step(past, (1, len(tokens)), wanted, self.limits.vocab)
        step.ids[0] = tokens
        step.last[0] = length - 1
        self._run(step)
        self._lengths[slot] = length
        return step.logits

    def _run(self, step: "_Step") -> None:
        if self._session is None:
            raise ValueError("the runtime is closed")
        step.total[0] = step.last.max() + 1
        if step.bound is None:
            step.bound = _bind(self._session, step)
        self._session.run_with_iobinding(step.bound)

    def _gather(self, slots: Sequence[int]) -> None:
        """Move slots to the first rows, in any order; others take their places."""
        count = len(slots)
        outside = [slot for slot in slots if self._rows[slot] >= count]
        if not outside:
            return
        asked = set(slots)
        strangers = [
            slot for slot, row in enumerate(self._rows) if row < count and slot not in asked
        ]
        for slot, stranger in zip(outside, strangers, strict=True):
            self._swap(slot, stranger)

    def _swap(self, slot: int, other: int) -> None:
        a, b = self._rows[slot], self._rows[other]
        held = max(self._lengths[slot], self._lengths[other])
        self._cache[:, [a, b], :, :held] = self._cache[:, [b, a], :, :held]
        self._rows[slot], self._rows[other] = b, a


class _Step:
    """The buffers of one call.

    Attributes:
        ids: Tokens, int64 `[B, S]`.
        last: Positions held after the step, less one, int32 `[B]`.
        total: The largest number of positions held after it, int32 `[1]`.
        logits: Float32 `[N, vocab]`.
        bound: What ONNX Runtime made of these buffers.
    """

    def __init__(
        self, cache: NDArray[np.float32], shape: tuple[int, int], wanted: list[int], vocab: int
    ) -> None:
        self.cache = cache
        self.ids = np.zeros(shape, np.int64)
        self.last = np.zeros(shape[0], np.int32)
        self.total = np.zeros(1, np.int32)
        self.wanted = np.array(wanted, np.int64)
        self.logits = np.zeros((len(wanted), vocab), np.float32)
        self.bound: ort.IOBinding | None = None

    def inputs(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The graph's inputs by name."""
        yield "input_ids", self.ids
        yield "last_index", self.last
        yield "total_length", self.total
        yield "logits_index", self.wanted
        yield from self._caches("past")

    def outputs(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The graph's outputs by name; those of the cache are the inputs' own memory."""
        yield "logits", self.logits
        yield from self._caches("present")

    def _caches(self, prefix: str) -> Iterator[tuple[str, NDArray[Any]]]:
        for index, array in enumerate(self.cache):
            yield f"{prefix}_{'value' if index % 2 else 'key'}.{index // 2}", array


def _bind(session: ort.InferenceSession, step: _Step) -> ort.IOBinding:
    binding = session.io_binding()
    for name, array in step.inputs():
        binding.bind_input(name, _CPU, 0, array.dtype.type, array.shape, array.ctypes.data)
    for name, array in step.outputs():
        binding.bind_output(name, _CPU, 0, array.dtype.type, array.shape, array.ctypes.data)
    return binding
