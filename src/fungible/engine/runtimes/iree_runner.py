"""Loads compiled modules into one device and calls them; compiles the rare ones behind."""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

from iree import runtime as iree

from fungible.engine.runtimes.iree_device import Device
from fungible.engine.runtimes.iree_modules import ForkSize, ModuleSize, ModuleStore
from fungible.engine.runtimes.xla_shapes import ShapePlan, StepShape
from fungible.errors import EngineError, FungibleError


class ModuleRunner:
    """The modules of one runtime, by size.

    Args:
        device: Where they run.
        store: Where they are kept.
        results: Results of a step.
    """

    def __init__(self, device: Device, store: ModuleStore, *, results: int) -> None:
        self._device = device
        self._store = store
        self._results = results
        self._loaded: dict[ModuleSize, tuple[Any, Any]] = {}
        self._compiled: set[StepShape] = set()
        self._closed = threading.Event()
        self._background = threading.Thread(target=self._compile, args=((),), daemon=True)

    def start(self, plan: ShapePlan) -> None:
        """Load what nearly every request needs; compile the rest in the background, in order."""
        for shape in plan.first():
            self._load(shape)
            self._compiled.add(shape)
        rest: list[ModuleSize] = [*map(ForkSize, plan.windows), *plan.all()]
        self._background = threading.Thread(
            target=self._compile, args=(rest,), daemon=True, name="iree-compile"
        )
        self._background.start()

    def best(self, shape: StepShape) -> StepShape:
        """The size to run a step at: a larger one that is ready goes before the compiler."""
        return min((size for size in [*self._compiled] if size.covers(shape)), default=shape)

    def run(self, size: ModuleSize, arguments: Sequence[Any]) -> Any:  # noqa: ANN401
        """Call a module; its first result.

        Raises:
            EngineError: IREE failed.
        """
        context, function = self._load(size)
        given = iree.VmVariantList(len(arguments))
        for argument in arguments:
            given.push_ref(argument)
        results = iree.VmVariantList(self._results)
        try:
            context.invoke(function, given, results)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"IREE failed in {size}: {error}") from error
        return results.get_as_object(0, iree.HalBufferView)

    def close(self) -> None:
        """Unload the modules and stop compiling."""
        self._closed.set()
        self._store.close()
        if self._background.is_alive():
            self._background.join()
        self._loaded.clear()

    def _load(self, size: ModuleSize) -> tuple[Any, Any]:
        if size not in self._loaded:
            if self._closed.is_set():
                raise ValueError("the runtime is closed")
            path = self._store.compile(size)
            instance = self._device.instance
            try:
                module = iree.VmModule.mmap(instance, str(path))
                hal = iree.create_hal_module(instance, self._device.hal)
                context = iree.VmContext(instance, [hal, module])
            except (RuntimeError, ValueError) as error:
                raise EngineError(
                    f"{path}: IREE cannot load it: {error}",
                    hint="delete the file; it is compiled again",
                ) from error
            self._loaded[size] = (context, module.lookup_function("main"))
        return self._loaded[size]

    def _compile(self, sizes: Sequence[ModuleSize]) -> None:
        for size in sizes:
            if self._closed.is_set():
                return
            # A step that needs the size will try again, and tell its request why it fails.
            with contextlib.suppress(FungibleError, OSError):
                self._store.compile(size, patient=True)
                if isinstance(size, StepShape):
                    self._compiled.add(size)
