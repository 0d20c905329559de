"""Compiles one exported program for many step sizes, the rare ones in the background."""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from fungible.engine.runtimes.xla_shapes import StepShape
from fungible.errors import EngineError

# Called with weights, keys, values and the inputs, one int32 array `(rows, length + 3)`: the
# tokens of each row, its slot, the position of its first token, and how many tokens count.
# One array, because each is a transfer of its own to the device.
CompiledStep = Callable[..., Any]
Arrays = tuple[jax.Array, ...]
State = tuple[Arrays, Arrays, Arrays]


class StepCompiler:
    """The compiled steps of one runtime, by size.

    Args:
        exported: The program.
        state: Weights, keys and values; only their shapes are used.
        device: Where the steps will run.
    """

    def __init__(self, exported: export.Exported, state: State, device: jax.Device) -> None:
        self._exported = exported
        self._sharding = jax.sharding.SingleDeviceSharding(device)
        self._state = jax.tree.map(lambda array: self._shaped(array.shape, array.dtype), state)
        self._steps: dict[StepShape, Future[CompiledStep]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._idle = threading.Event()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="xla-compile")

    def start(self, first: Sequence[StepShape], rest: Sequence[StepShape]) -> None:
        """Compile `first` before returning, then `rest` in the background, in order."""
        with ThreadPoolExecutor(len(first)) as pool:
            for done in [pool.submit(self._compile_once, shape) for shape in first]:
                done.result()
        _return_freed_memory()
        self._background.submit(self._compile_next, list(rest))

    def get(self, shape: StepShape) -> tuple[CompiledStep, StepShape]:
        """A step for at least this size, and its size.

        A larger one that is ready goes before waiting for the compiler.
        """
        ready = [
            size for size, step in list(self._steps.items()) if step.done() and size.covers(shape)
        ]
        if ready:
            shape = min(ready)
        return self._compile_once(shape), shape

    def wait(self) -> None:
        """Return when nothing is left to compile in the background."""
        self._idle.wait()

    def close(self) -> None:
        """Stop compiling; waits for the step that is being compiled."""
        self._closed.set()
        self._background.shutdown(cancel_futures=True)
        self._idle.set()
        self._steps.clear()

    def _compile_next(self, shapes: list[StepShape]) -> None:
        if self._closed.is_set() or not shapes:
            self._idle.set()
            return
        # A failure is kept with the step: a request that needs this size is told.
        with contextlib.suppress(EngineError):
            self._compile_once(shapes[0])
        _return_freed_memory()
        # One task a size: at interpreter exit a pool still runs what was submitted before.
        try:
            self._background.submit(self._compile_next, shapes[1:])
        except RuntimeError:
            self._closed.set()

    def _compile_once(self, shape: StepShape) -> CompiledStep:
        with self._lock:
            mine = shape not in self._steps
            step = self._steps.setdefault(shape, Future())
        if mine:
            try:
                step.set_result(self._compile(shape))
            except Exception as error:  # noqa: BLE001  # whoever waits for it must get it
                step.set_exception(error)
        try:
            return step.result()
        except jax.errors.JaxRuntimeError as error:
            raise EngineError(f"XLA cannot compile a step of {shape}: {error}") from error

    def _compile(self, shape: StepShape) -> CompiledStep:
        inputs = self._shaped((shape.rows, shape.length + 3), jnp.dtype(jnp.int32))

        def step(weights: Arrays, keys: Arrays, values: Arrays, inputs: jax.Array) -> Any:  # noqa: ANN401
            tokens = inputs[:, : shape.length]
            rows = [inputs[:, shape.length + index] for index in range(3)]
            window = jnp.arange(shape.window, dtype=jnp.int32)
            return self._exported.call(weights, keys, values, tokens, *rows, window)

        # A function of its own: JAX keeps what it lowered, tens of megabytes, as long as that.
        jitted = jax.jit(step, donate_argnums=(1, 2))
        compiled: CompiledStep = jitted.lower(*self._state, inputs).compile()
        return compiled

    def _shaped(self, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharding)


def _return_freed_memory() -> None:
    """Give the compiler's memory back: glibc keeps hundreds of megabytes unless it is asked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
