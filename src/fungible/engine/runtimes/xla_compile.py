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

CompiledStep = Callable[..., Any]
State = tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], tuple[jax.Array, ...]]


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

    def close(self) -> None:
        """Stop compiling; waits for the step that is being compiled."""
        self._closed.set()
        self._background.shutdown(cancel_futures=True)
        self._steps.clear()

    def _compile_next(self, shapes: list[StepShape]) -> None:
        if self._closed.is_set() or not shapes:
            return
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
        sizes = [(shape.rows, shape.length), *[(shape.rows,)] * 3, (shape.window,)]
        inputs = [self._shaped(size, jnp.dtype(jnp.int32)) for size in sizes]

        def step(*arguments: Any) -> Any:  # noqa: ANN401
            return self._exported.call(*arguments)

        # A function of its own: JAX keeps what it lowered, tens of megabytes, as long as that.
        jitted = jax.jit(step, donate_argnums=(1, 2))
        compiled: CompiledStep = jitted.lower(*self._state, *inputs).compile()
        return compiled

    def _shaped(self, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharding)


def _return_freed_memory() -> None:
    """Give the compiler's memory back: glibc keeps hundreds of megabytes unless it is asked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
