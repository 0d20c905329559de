"""Which library runs which target. Each runtime's module is imported only when it is opened."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from fungible.contract.target import Target
from fungible.engine.runtimes.base import Runtime
from fungible.errors import InputError, MissingExtraError

# runtime -> (module, class or function, extra that installs its library)
RUNTIMES = {
    "onnxruntime": ("fungible.engine.runtimes.onnxruntime", "open_onnxruntime", "onnxruntime"),
    "openvino": ("fungible.engine.runtimes.openvino", "OpenVINORuntime", "openvino"),
    "xla": ("fungible.engine.runtimes.xla", "XLARuntime", "xla"),
    "iree": ("fungible.engine.runtimes.iree", "IREERuntime", "iree"),
}


class RuntimeFactory(Protocol):
    """How a runtime is made: it loads the variant's weights before it returns."""

    def __call__(
        self,
        artifact: Path,
        variant: str,
        target: Target,
        *,
        slots: int,
        context: int,
        threads: int,
    ) -> Runtime:
        """See `open_runtime`."""
        ...


def open_runtime(
    artifact: Path, variant: str, target: Target, *, slots: int, context: int, threads: int
) -> Runtime:
    """Load a variant of an artifact on a target.

    Args:
        artifact: Artifact directory.
        variant: A variant that its manifest lists.
        target: Runtime and device.
        slots: Requests held at once.
        context: Tokens per slot, prompt and answer together.
        threads: CPU threads for one step.

    Raises:
        ArtifactError: The artifact has no such variant, or cannot be loaded.
        InputError: The runtime is unknown or has no such device here.
        MissingExtraError: The runtime's library is not installed.
    """
    if target.runtime not in RUNTIMES:
        raise InputError(
            f"target {target}: unknown runtime", hint=f"known: {', '.join(sorted(RUNTIMES))}"
        )
    for name, value in (("slots", slots), ("context", context), ("threads", threads)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    module, attribute, extra = RUNTIMES[target.runtime]
    try:
        factory = cast(RuntimeFactory, getattr(import_module(module), attribute))
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"target {target} needs {error.name}, which is not installed",
            hint=f"pip install 'fungible[{extra}]'",
        ) from error
    return factory(artifact, variant, target, slots=slots, context=context, threads=threads)
