"""ONNX Runtime on the CPU.

The key/value cache is ours: `[2·layers, slots, kv_heads, context, head_dim]`, keys and values
of a layer side by side. The graph takes the past and returns only what is new, so a step's
cost does not grow with copies of the cache: for decoding, the past of the batch is kept in a
second, tightly packed array that is appended to in place and rebuilt only when the set of
slots changes or its room is used up.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.session import open_session
from fungible.contract.target import Target
from fungible.engine.runtimes.base import Logits, RuntimeLimits
from fungible.errors import ArtifactError, ContextLengthError, InputError

# The packed past grows in steps, so that it is rebuilt rarely and padded little.
_ROOM = 64
_CPU = "cpu"


class ONNXRuntime:
    """Runs one variant of an artifact; see `Runtime`.

    Args:
        artifact: Artifact directory.
        variant: A variant that its manifest lists.
        target: `onnxruntime:cpu`.
        slots: Requests held at once.
        context: Tokens per slot.
        threads: Threads of one step; idle ones sleep.

    Raises:
        ArtifactError: The variant is missing or cannot be loaded.
        InputError: The device is not here, or the context is longer than the model's.
    """

    def __init__(
        self,
        artifact: Path,
        variant: str,
        target: Target,
        *,
        slots: int,
        context: int,
        threads: int,
    ) -> None:
        manifest = load_manifest(artifact)
        if variant not in manifest.variants:
            raise ArtifactError(
                f"{artifact}: there is no variant {variant!r}",
                hint=f"it has: {', '.join(manifest.variants)}",
            )
        if target.device != _CPU or target.arch:
            raise InputError(
                f"target {target}: ONNX Runtime runs on the CPU here",
                hint="use onnxruntime:cpu",
            )
        config = manifest.config
        if context > config.context:
            raise InputError(
                f"context {context} is longer than the model's {config.context} tokens"
            )
        self.limits = RuntimeLimits(slots=slots, context=context, vocab=config.vocab)
        self._config = config
        self._session: ort.InferenceSession | None = open_session(
            artifact / variant / "model.onnx", threads
        )
        shape = (2 * config.layers, slots, config.kv_heads, context, config.head_dim)
        # Zeros, not garbage: masked positions are still multiplied. Pages that no token
        # reaches are never touched, so they cost no memory.
        self._cache = np.zeros(shape, np.float32)
        self._lengths = [0] * slots
        self._batch = _Batch(self._cache, (), 0)

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.prefill`.

        Raises:
            ContextLengthError: The slot has no room for the tokens.
        """
        past, count = self._lengths[slot], len(tokens)
        self._require_room(slot, count)
        ahead = np.tril(np.ones((count, count), np.bool_))
        mask = np.concatenate([np.ones((count, past), np.bool_), ahead], axis=1)
        step = _Step(
            np.ascontiguousarray(self._cache[:, slot : slot + 1, :, :past]),
            mask[None, None],
            new=count,
            vocab=self.limits.vocab,
        )
        step.ids[0] = tokens
        step.positions[0] = np.arange(past, past + count)
        self._run(step)
        self._cache[:, slot, :, past : past + count] = step.added[:, 0]
        self._lengths[slot] = past + count
        logits: Logits = step.logits[0]
        return logits

    def decode(self, slots: Sequence[int], tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.decode`.

        Raises:
            ContextLengthError: One of the slots is full.
        """
        for slot in slots:
            self._require_room(slot, 1)
        lengths = [self._lengths[slot] for slot in slots]
        batch = self._batch
        if not batch.fits(tuple(slots), max(lengths)):
            room = min(-(-(max(lengths) + 1) // _ROOM) * _ROOM, self.limits.context)
            batch = self._batch = _Batch(self._cache, tuple(slots), room, self.limits.vocab)
        step = batch.prepare(lengths)
        step.ids[:, 0] = tokens
        self._run(step)
        batch.append(lengths)
        for slot, length in zip(slots, lengths, strict=True):
            self._lengths[slot] = length + 1
        return step.logits.copy()

    def release(self, slot: int) -> None:
        """See `Runtime.release`."""
        self._lengths[slot] = 0
        self._batch.forget(slot)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._session = None
        self._cache = np.zeros((0, 0, 0, 0, 0), np.float32)
        self._batch = _Batch(self._cache, (), 0)

    def _require_room(self, slot: int, count: int) -> None:
        past, context = self._lengths[slot], self.limits.context
        if past + count > context:
            raise ContextLengthError(
                f"slot {slot} holds {past} of {context} tokens; {count} more do not fit"
            )

    def _run(self, step: "_Step") -> None:
        if self._session is None:
            raise ValueError("the runtime is closed")
        if step.binding is None:
            step.binding = step.bind(self._session)
        self._session.run_with_iobinding(step.binding)


class _Step:
    """The buffers of one call of the graph; inputs are written and outputs read in place.

    Attributes:
        past: Float32 `[2·layers, B, kv_heads, P, head_dim]`.
        mask: Boolean `[B, 1, S, P + S]`.
        ids: Tokens, int64 `[B, S]`; `positions` likewise.
        added: The new keys and values, shaped like `past` with S instead of P.
        logits: Float32 `[B, vocab]`, after the last token of each row.
    """

    def __init__(
        self, past: NDArray[np.float32], mask: NDArray[np.bool_], *, new: int, vocab: int
    ) -> None:
        caches, rows, kv_heads, _, head_dim = past.shape
        self.past = past
        self.mask = mask
        self.ids = np.zeros((rows, new), np.int64)
        self.positions = np.zeros((rows, new), np.int64)
        self.last = np.arange(1, rows + 1, dtype=np.int64) * new - 1
        self.added = np.zeros((caches, rows, kv_heads, new, head_dim), np.float32)
        self.logits = np.zeros((rows, vocab), np.float32)
        self.binding: ort.IOBinding | None = None

    def bind(self, session: ort.InferenceSession) -> ort.IOBinding:
        """Tie the graph's inputs and outputs to the buffers."""
        binding = session.io_binding()

        def tie(bind: Any, name: str, array: NDArray[Any]) -> None:  # noqa: ANN401
            bind(name, _CPU, 0, array.dtype.type, array.shape, array.ctypes.data)

        tie(binding.bind_input, "input_ids", self.ids)
        tie(binding.bind_input, "position_ids", self.positions)
        tie(binding.bind_input, "attention_mask", self.mask)
        tie(binding.bind_input, "logits_index", self.last)
        tie(binding.bind_output, "logits", self.logits)
        for index in range(len(self.past)):
            name = f"{'value' if index % 2 else 'key'}.{index // 2}"
            tie(binding.bind_input, f"past_{name}", self.past[index])
            tie(binding.bind_output, f"new_{name}", self.added[index])
        return binding


class _Batch:
    """The packed past of a set of slots, with room for `room` tokens in each row."""

    def __init__(
        self, cache: NDArray[np.float32], slots: tuple[int, ...], room: int, vocab: int = 0
    ) -> None:
        caches, _, kv_heads, _, head_dim = cache.shape
        rows = len(slots)
        self.slots = slots
        self.room = room
        self._cache = cache
        self._filled = [0] * rows
        past = np.zeros((caches, rows, kv_heads, room, head_dim), np.float32)
        mask = np.ones((rows, 1, 1, room + 1), np.bool_)
        self._step = _Step(past, mask, new=1, vocab=vocab)

    def fits(self, slots: tuple[int, ...], longest: int) -> bool:
        """Whether these slots are the rows and there is room for one more token in each."""
        return slots == self.slots and longest < self.room

    def prepare(self, lengths: Sequence[int]) -> _Step:
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

    def forget(self, slot: int) -> None:
        """A released slot starts again."""
        if slot in self.slots:
            self._filled[self.slots.index(slot)] = 0
