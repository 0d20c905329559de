"""ONNX Runtime on the CPU: our slot cache, and graphs run on buffers that are bound once."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.session import appends_in_place, open_session
from fungible.contract.target import Target
from fungible.engine.runtimes.base import Runtime, RuntimeLimits
from fungible.engine.runtimes.graph_step import GraphStep
from fungible.engine.runtimes.onnxruntime_in_place import InPlaceRuntime
from fungible.engine.runtimes.slot_cache import SlotCache
from fungible.errors import ArtifactError, InputError

_CPU = "cpu"


def open_onnxruntime(
    artifact: Path,
    variant: str,
    target: Target,
    *,
    slots: int,
    context: int,
    threads: int,
) -> Runtime:
    """Load one variant of an artifact; the graph decides who keeps its cache.

    Args:
        artifact: Artifact directory.
        variant: A variant that its manifest lists.
        target: `onnxruntime:cpu`.
        slots: Requests held at once.
        context: Tokens per slot.
        threads: Threads of one step; between steps they sleep.

    Raises:
        ArtifactError: The variant is missing or cannot be loaded.
        InputError: The device is not here, or the context is longer than the model's.
    """
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
        raise InputError(f"context {context} is longer than the model's {config.context} tokens")
    limits = RuntimeLimits(slots=slots, context=context, vocab=config.vocab)
    session = open_session(artifact / variant / "model.onnx", threads)
    if appends_in_place(session):
        return InPlaceRuntime(session, config, limits)
    return ONNXRuntime(session, config, limits)


class ONNXRuntime(SlotCache):
    """Runs a graph that keeps no state; see `Runtime`.

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
        super().__init__(config, limits, self._execute)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._session = None
        super().close()

    def _execute(self, step: GraphStep) -> None:
        if self._session is None:
            raise ValueError("the runtime is closed")
        if step.bound is None:
            step.bound = _bind(self._session, step)
        self._session.run_with_iobinding(step.bound)


def _bind(session: ort.InferenceSession, step: GraphStep) -> ort.IOBinding:
    """Tie the graph's inputs and outputs to the step's buffers."""
    binding = session.io_binding()

    def tie(bind: Any, name: str, array: NDArray[Any]) -> None:  # noqa: ANN401
        bind(name, _CPU, 0, array.dtype.type, array.shape, array.ctypes.data)

    for name, array in step.inputs():
        tie(binding.bind_input, name, array)
    for name, array in step.outputs():
        tie(binding.bind_output, name, array)
    return binding
