"""Runs an artifact's StableHLO program by XLA, through JAX's PJRT client.

The program that runs is the exported one; the model's source is never traced here. Weights
are mapped from the file and, on a CPU, used in place. The cache is donated to each step, so
XLA writes it in place too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.manifest import REFERENCE
from fungible.artifacts.program import PROGRAM, Program, load_program
from fungible.contract.target import Target
from fungible.engine.runtimes.base import Logits, RuntimeLimits
from fungible.engine.runtimes.slot_lengths import SlotLengths
from fungible.engine.runtimes.xla_compile import StepCompiler
from fungible.engine.runtimes.xla_device import (
    load_exported,
    open_device,
    use_compilation_cache,
)
from fungible.engine.runtimes.xla_fork import copy_prefix, smallest, zero_caches
from fungible.engine.runtimes.xla_shapes import ShapePlan, StepShape
from fungible.engine.runtimes.xla_weights import load_weights, runs_in_float32
from fungible.errors import (
    ArtifactError,
    EngineError,
    InputError,
)

# Steps that a score has in flight.
_AHEAD: Final = 4


class XLARuntime:
    """One variant of an artifact on one XLA device; see `engine.runtimes.base.Runtime`.

    Args:
        artifact: Artifact directory.
        variant: A variant with a StableHLO program.
        target: `xla:DEVICE`; a device other than `cpu` needs its PJRT plugin.
        slots: Requests held at once.
        context: Tokens per slot.
        threads: CPU threads; the first runtime of a process decides for all of them.

    Raises:
        ArtifactError: The variant has no program, or its files do not fit together.
        InputError: The context is longer than the model was trained for.
        UnavailableError: JAX finds no such device here.
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
        device = open_device(target, threads)
        steps = folder
        if runs_in_float32(program, device):
            steps = artifact / REFERENCE
            program = _find_program(artifact, REFERENCE, target)
        use_compilation_cache(artifact.parent / ".cache" / "xla")
        self.limits = RuntimeLimits(slots=slots, context=context, vocab=program.vocab)
        self._plan = ShapePlan(slots, context, accelerator=device.platform != "cpu")
        self._lengths = SlotLengths(self.limits)
        self._weights = load_weights(folder / "model.safetensors", program, device)
        caches = [one for one in program.arguments if one.name.startswith(("keys.", "values."))]
        zeros = zero_caches(caches, {"N": slots, "C": context}, device)
        self._keys, self._values = zeros[: program.layers], zeros[program.layers :]
        self._device = device
        state = (self._weights, self._keys, self._values)
        self._compiler = StepCompiler(load_exported(steps, program), state, device)
        self._compiler.start(self._plan.first(), self._plan.all())

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """Append prompt tokens `(S,)` to a slot; float32 logits `(vocab,)` after the last one.

        Raises:
            ContextLengthError: The slot has no room for them.
            EngineError: XLA failed.
        """
        if len(tokens) == 0:
            raise InputError("no tokens to prefill", hint="a prompt has at least one token")
        self._lengths.require_room(slot, len(tokens))
        logits: Any = None
        for length in self._plan.chunks(self._lengths[slot], len(tokens)):
            chunk, tokens = tokens[:length], tokens[length:]
            shape = self._plan.fit(1, length, self._lengths[slot] + len(chunk))
            logits = self._step(shape, [slot], chunk[None])
            self._lengths[slot] += len(chunk)
        last: Logits = np.asarray(logits)[0]
        return last

    def decode(self, slots: Sequence[int], tokens: NDArray[np.int64]) -> Logits:
        """Append one token to each slot of `slots`; float32 logits `(len(slots), vocab)`.

        Raises:
            ContextLengthError: A slot is full.
            EngineError: XLA failed.
        """
        if len(tokens) != len(slots) or not slots or len(set(slots)) != len(slots):
            raise InputError(f"decode needs one token for each of some distinct slots, got {slots}")
        for slot in slots:
            self._lengths.require_room(slot, 1)
        end = 1 + max(self._lengths[slot] for slot in slots)
        shape = self._plan.fit(len(slots), 1, end)
        logits: Logits = np.asarray(self._step(shape, slots, tokens[:, None]))
        for slot in slots:
            self._lengths[slot] += 1
        return logits[: len(slots)]

    def score(self, slot: int, tokens: NDArray[np.int64]) -> Logits:
        """See `Runtime.score`: one step a token, as the program has logits for the last only.

        Raises:
            ContextLengthError: The slot has no room for them.
            EngineError: XLA failed.
            InputError: There are no tokens.
        """
        if len(tokens) == 0:
            raise InputError("no tokens to score", hint="a prompt has at least one token")
        self._lengths.require_room(slot, len(tokens))
        found = np.empty((len(tokens), self.limits.vocab), np.float32)
        pending: list[Any] = []
        for index in range(len(tokens)):
            shape = self._plan.fit(1, 1, self._lengths[slot] + 1)
            pending.append(self._step(shape, [slot], tokens[None, index : index + 1]))
            self._lengths[slot] += 1
            # A few steps ahead of the device, so that it never waits for this side.
            if index >= _AHEAD:
                found[index - _AHEAD] = np.asarray(pending.pop(0))[0]
        for index, logits in enumerate(pending, start=len(tokens) - len(pending)):
            found[index] = np.asarray(logits)[0]
        return found

    def fork(self, source: int, slot: int, length: int) -> None:
        """See `Runtime.fork`.

        Raises:
            EngineError: XLA failed.
            InputError: The slot is not empty, or `source` holds fewer tokens.
        """
        self._lengths.require_empty(slot)
        self._lengths.require_held(source, length)
        rows = jax.device_put(np.array([source, slot], np.int32), self._device)
        caches = (*self._keys, *self._values)
        try:
            copied = copy_prefix(caches, rows, window=smallest(self._plan.windows, length))
        except jax.errors.JaxRuntimeError as error:
            raise EngineError(f"XLA failed to copy {length} tokens: {error}") from error
        self._keys, self._values = copied[: len(self._keys)], copied[len(self._keys) :]
        self._lengths[slot] = length

    def truncate(self, slot: int, length: int) -> None:
        """See `Runtime.truncate`: what stays in the cache is overwritten before it is read.

        Raises:
            InputError: The slot holds fewer tokens.
        """
        self._lengths.require_held(slot, length)
        self._lengths[slot] = length

    def release(self, slot: int) -> None:
        """Empty a slot."""
        self.truncate(slot, 0)

    def wait_until_compiled(self) -> None:
        """Return when every step size is compiled, so that what is measured next is only steps."""
        self._compiler.wait()

    def close(self) -> None:
        """Free memory and stop compiling; the runtime is not used afterwards."""
        self._compiler.close()
        self._weights, self._keys, self._values = (), (), ()

    def _step(self, shape: StepShape, slots: Sequence[int], tokens: NDArray[np.int64]) -> Any:  # noqa: ANN401
        """Run one step; `tokens (len(slots), at most shape.length)` are padded to the shape.

        A row too many belongs to a slot that is not asked for: it writes where that slot's
        next token will be, which nothing reads before it is overwritten.
        """
        step, shape = self._compiler.get(shape)
        others = (slot for slot in range(self.limits.slots) if slot not in slots)
        rows = [*slots, *(next(others) for _ in range(shape.rows - len(slots)))]
        inputs = np.zeros((shape.rows, shape.length + 3), np.int32)
        inputs[: tokens.shape[0], : tokens.shape[1]] = tokens
        inputs[:, -3] = rows
        inputs[:, -2] = [self._lengths[slot] for slot in rows]
        inputs[:, -1] = tokens.shape[1]
        try:
            logits, self._keys, self._values = step(
                self._weights, self._keys, self._values, jax.device_put(inputs, self._device)
            )
            # Under way to this side while it does something else.
            logits.copy_to_host_async()
        except jax.errors.JaxRuntimeError as error:
            raise EngineError(f"XLA failed in a step of {shape}: {error}") from error
        return logits


def _find_program(artifact: Path, variant: str, target: Target) -> Program:
    if not (artifact / variant / PROGRAM).is_file():
        there = sorted(path.parent.name for path in artifact.glob(f"*/{PROGRAM}"))
        raise ArtifactError(
            f"{artifact.name}: variant {variant!r} has no StableHLO program, so {target} cannot "
            "run it",
            hint=f"variants that {target} runs: {', '.join(there) or 'none'}",
        )
    return load_program(artifact / variant)
