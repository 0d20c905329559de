"""Runs an artifact's StableHLO program by IREE, from modules compiled ahead for each step size.

Weights are mapped from the file and, on a CPU, used in place. Keys and values stay on the
device; a step writes them in place, because their buffers are given away to its results.
"""

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.program import PROGRAM, Program, load_program
from fungible.artifacts.tensors import TensorFile
from fungible.contract.target import Target
from fungible.engine.runtimes.base import Logits, RuntimeLimits
from fungible.engine.runtimes.iree_device import Device, numpy_type
from fungible.engine.runtimes.iree_modules import ForkSize, ModuleStore
from fungible.engine.runtimes.iree_runner import ModuleRunner
from fungible.engine.runtimes.slot_lengths import SlotLengths
from fungible.engine.runtimes.xla_shapes import ShapePlan, StepShape
from fungible.errors import ArtifactError, InputError


class IREERuntime:
    """One variant of an artifact on one device; see `engine.runtimes.base.Runtime`.

    Args:
        artifact: Artifact directory.
        variant: A variant with a StableHLO program.
        target: `iree:cpu`, or `iree:DEVICE:ARCH` as in `iree_device.KINDS`.
        slots: Requests held at once.
        context: Tokens per slot.
        threads: CPU threads; the first runtime of a process decides for all of them.

    Raises:
        ArtifactError: The variant has no program, or its files do not fit together.
        InputError: The context is longer than the model was trained for.
        MissingExtraError: A module is not compiled yet, and there is no compiler.
        UnavailableError: IREE finds no such device here.
    """

    limits: RuntimeLimits

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
        folder = artifact / variant
        program = _find_program(artifact, variant, target)
        if context > program.context:
            raise InputError(
                f"context {context} is longer than the {program.context} tokens that "
                f"{artifact.name} was trained for",
                hint=f"set the engine's context to {program.context} or less",
            )
        self.limits = RuntimeLimits(slots=slots, context=context, vocab=program.vocab)
        self._lengths = SlotLengths(self.limits)
        self._plan = ShapePlan(slots, context)
        # One slot more than the scheduler knows: rows that only fill up a step write there.
        sizes = {"N": slots + 1, "C": context}
        device = self._device = Device(target, threads)
        store = ModuleStore(folder, program, target, sizes, artifact.parent / ".cache" / "iree")
        self._modules = ModuleRunner(device, store, results=1 + 2 * program.layers)
        self._weights: list[Any] = []
        self._caches: list[Any] = []
        # Buffers on mapped memory must go before the interpreter does.
        self._end = weakref.finalize(self, _end, device, self._modules, self._weights, self._caches)
        self._modules.start(self._plan)
        self._weights += _load_weights(folder / "model.safetensors", program, device)
        self._caches += _zero_caches(program, sizes, device)

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.prefill`.

        Raises:
            ContextLengthError: The slot has no room for the tokens.
            EngineError: IREE failed.
            InputError: There are no tokens.
        """
        self._require_tokens(slot, tokens)
        logits: Any = None
        for length in self._plan.chunks(self._lengths[slot], len(tokens)):
            chunk, tokens = tokens[:length], tokens[length:]
            shape = self._plan.fit(1, length, self._lengths[slot] + len(chunk))
            logits = self._step(shape, [slot], chunk[None])
            self._lengths[slot] += len(chunk)
        last: Logits = self._device.fetch(logits)[0]
        return last

    def decode(self, slots: Sequence[int], tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.decode`.

        Raises:
            ContextLengthError: A slot is full.
            EngineError: IREE failed.
            InputError: The slots are not distinct, or not as many as the tokens.
        """
        if len(tokens) != len(slots) or not slots or len(set(slots)) != len(slots):
            raise InputError(f"decode needs one token for each of some distinct slots, got {slots}")
        for slot in slots:
            self._lengths.require_room(slot, 1)
        shape = self._plan.fit(len(slots), 1, 1 + max(self._lengths[slot] for slot in slots))
        logits: Logits = self._device.fetch(self._step(shape, slots, tokens[:, None]))
        for slot in slots:
            self._lengths[slot] += 1
        return logits[: len(slots)]

    def score(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.score`: one step a token, as the program has logits for the last only."""
        self._require_tokens(slot, tokens)
        return np.concatenate([self.decode([slot], tokens[i : i + 1]) for i in range(len(tokens))])

    def truncate(self, slot: int, length: int) -> None:
        """See `Runtime.truncate`: what is left in the cache is overwritten before it is read."""
        self._lengths.require_held(slot, length)
        self._lengths[slot] = length

    def release(self, slot: int) -> None:
        """See `Runtime.release`."""
        self.truncate(slot, 0)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._end()

    def fork(self, source: int, slot: int, length: int) -> None:
        """See `Runtime.fork`.

        Raises:
            EngineError: IREE failed.
            InputError: The slot is not empty, or `source` holds fewer tokens.
        """
        self._lengths.require_empty(slot)
        self._lengths.require_held(source, length)
        size = ForkSize(next(size for size in self._plan.windows if size >= length))
        rows = [np.array(row, np.int32) for row in (source, slot)]
        self._modules.run(size, [*self._caches, *self._placed(rows)])
        self._lengths[slot] = length

    def _step(self, shape: StepShape, slots: Sequence[int], tokens: NDArray[np.int64]) -> Any:  # noqa: ANN401
        """Run one step; `tokens (len(slots), at most shape.length)` are padded to the shape.

        Rows too many belong to the slot that nobody is given.
        """
        shape = self._modules.best(shape)
        rows = [*slots, *[self.limits.slots] * (shape.rows - len(slots))]
        padded = np.zeros((shape.rows, shape.length), np.int32)
        padded[: tokens.shape[0], : tokens.shape[1]] = tokens
        starts = [self._lengths[slot] for slot in slots] + [0] * (shape.rows - len(slots))
        inputs = (
            padded,
            np.array(rows, np.int32),
            np.array(starts, np.int32),
            np.full(shape.rows, tokens.shape[1], np.int32),
            np.arange(shape.window, dtype=np.int32),
        )
        return self._modules.run(shape, [*self._weights, *self._caches, *self._placed(inputs)])

    def _placed(self, arrays: Sequence[NDArray[np.int32]]) -> list[Any]:
        return [self._device.copy(array, "int32") for array in arrays]

    def _require_tokens(self, slot: int, tokens: NDArray[np.int64]) -> None:
        if len(tokens) == 0:
            raise InputError("no tokens to prefill", hint="a prompt has at least one token")
        self._lengths.require_room(slot, len(tokens))


def _end(device: Device, modules: ModuleRunner, *buffers: list[Any]) -> None:
    modules.close()
    for held in buffers:
        held.clear()
    device.close()


def _find_program(artifact: Path, variant: str, target: Target) -> Program:
    if not (artifact / variant / PROGRAM).is_file():
        there = sorted(path.parent.name for path in artifact.glob(f"*/{PROGRAM}"))
        raise ArtifactError(
            f"{artifact.name}: variant {variant!r} has no StableHLO program, so {target} cannot "
            "run it",
            hint=f"variants that {target} runs: {', '.join(there) or 'none'}",
        )
    return load_program(artifact / variant)


def _load_weights(path: Path, program: Program, device: Device) -> list[Any]:
    """The program's weights on the device; on a CPU they stay where the file is mapped."""
    file = TensorFile(path)
    # Private and writable, as IREE takes no read-only memory; nothing writes to it.
    mapped = np.memmap(path, np.uint8, mode="c")
    weights = []
    for argument in program.arguments:
        if argument.name.startswith(("keys.", "values.")):
            break
        region = file.regions.get(argument.name)
        kind = numpy_type(argument.dtype)
        shape = [int(n) for n in argument.shape]
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if region is None or region.length != size:
            raise ArtifactError(
                f"{path}: tensor {argument.name} is missing, or not {argument.dtype} {shape}",
                hint="build the artifact again with `fungible artifact build`",
            )
        data = mapped[region.offset : region.offset + region.length]
        weights.append(device.place(data.view(kind).reshape(shape), argument.dtype))
    return weights


def _zero_caches(program: Program, sizes: Mapping[str, int], device: Device) -> list[Any]:
    return [
        device.zeros([int(sizes.get(str(size), size)) for size in item.shape], item.dtype)
        for item in program.arguments
        if item.name.startswith(("keys.", "values."))
    ]
