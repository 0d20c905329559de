"""OpenVINO, on the same ONNX graph and the same weights file as ONNX Runtime.

The key/value cache is a `SlotCache`; inputs and outputs are its buffers, used in place.
"""

import sys
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.model_config import ModelConfig
from fungible.contract.target import Target
from fungible.engine.runtimes.base import RuntimeLimits
from fungible.engine.runtimes.graph_step import GraphStep
from fungible.engine.runtimes.slot_cache import SlotCache
from fungible.errors import ArtifactError, EngineError, InputError, UnavailableError

# `import openvino` reports itself to its maker over the network unless this package is
# missing. An engine must not do that: OpenVINO then uses the stub that it carries.
sys.modules.setdefault("openvino_telemetry", cast(Any, None))
import openvino  # noqa: E402
from openvino.preprocess import PrePostProcessor  # noqa: E402

_DEVICES: Final = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
_BOILERPLATE: Final = ("Exception from", "Check '", "FrontEnd API failed", "Summary", "-- Conv")


class OpenVINORuntime(SlotCache):
    """Runs one variant of an artifact; see `Runtime`.

    Args:
        artifact: Artifact directory.
        variant: A variant that its manifest lists.
        target: `openvino:cpu`, `openvino:gpu` or `openvino:npu`; `gpu:1` is the second one.
        slots: Requests held at once.
        context: Tokens per slot.
        threads: CPU threads of one step.

    Raises:
        ArtifactError: The variant is missing or cannot be loaded.
        InputError: The device is unknown, or the context is longer than the model's.
        UnavailableError: There is no such device here.
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
        config = _model_config(artifact, variant, context)
        self.limits = RuntimeLimits(slots=slots, context=context, vocab=config.vocab)
        core = open_core()
        device = find_device(core, target)
        path = artifact / variant / "model.onnx"
        half = variant == "bf16" and computes_half(core, device)
        model = compile_graph(core, path, device, threads, half=half)
        self._request: Any = model.create_infer_request()
        self._bound: GraphStep | None = None
        dtype = np.uint16 if half else np.float32
        super().__init__(config, self.limits, self._execute, dtype=dtype, steady=True)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._request = self._bound = None
        super().close()

    def _execute(self, step: GraphStep) -> None:
        if self._request is None:
            raise ValueError("the runtime is closed")
        try:
            if self._bound is not step:
                # The request holds the tensors, and they hold the step's arrays.
                step.bound = step.bound or [
                    (name, _tensor(array)) for name, array in (*step.inputs(), *step.outputs())
                ]
                for name, tensor in step.bound:
                    self._request.set_tensor(name, tensor)
                self._bound = step
            self._request.infer()
        except RuntimeError as error:
            self._bound = None
            raise EngineError(f"OpenVINO failed in a step: {reason_of(error)}") from error


def _tensor(array: NDArray[Any]) -> Any:  # noqa: ANN401
    """A tensor in the array's memory; 16 bits are those of bfloat16, which NumPy lacks."""
    if array.dtype == np.uint16:
        return openvino.Tensor(array, openvino.Shape(array.shape), openvino.Type.bf16)
    return openvino.Tensor(array, shared_memory=True)


def _model_config(artifact: Path, variant: str, context: int) -> ModelConfig:
    manifest = load_manifest(artifact)
    if variant not in manifest.variants:
        raise ArtifactError(
            f"{artifact}: there is no variant {variant!r}",
            hint=f"it has: {', '.join(manifest.variants)}",
        )
    runtimes = manifest.variants[variant].runtimes
    if "openvino" not in runtimes:
        raise ArtifactError(
            f"{artifact.name}: variant {variant!r} is not for OpenVINO",
            hint=f"it runs on {', '.join(runtimes)}; int4 runs on both",
        )
    if context > manifest.config.context:
        raise InputError(
            f"context {context} is longer than the model's {manifest.config.context} tokens",
            hint=f"set the engine's context to {manifest.config.context} or less",
        )
    return manifest.config


def open_core() -> Any:  # noqa: ANN401
    """OpenVINO's devices; it reports itself to nobody."""
    return openvino.Core()


def find_device(core: Any, target: Target) -> str:  # noqa: ANN401
    """OpenVINO's name of the target's device.

    Raises:
        InputError: OpenVINO knows no such kind of device.
        UnavailableError: There is none here.
    """
    if target.device not in _DEVICES or (target.device == "cpu" and target.arch):
        raise InputError(
            f"target {target}: OpenVINO has no such device",
            hint=f"use {', '.join(f'openvino:{device}' for device in _DEVICES)}",
        )
    name = _DEVICES[target.device]
    found: list[str] = core.available_devices
    wanted = f"{name}.{target.arch}" if target.arch else name
    if wanted not in found and not (wanted == name and f"{name}.0" in found):
        raise UnavailableError(
            f"{target}: OpenVINO finds no such device, only {', '.join(sorted(found)).lower()}",
            hint="install the device's driver, or use openvino:cpu",
        )
    return wanted


def computes_half(core: Any, device: str) -> bool:  # noqa: ANN401
    """Whether the device has instructions for bfloat16."""
    return "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES")


def compile_graph(
    core: Any,  # noqa: ANN401
    path: Path,
    device: str,
    threads: int,
    *,
    half: bool = False,
) -> Any:  # noqa: ANN401
    """An ONNX graph, compiled to compute in float32.

    Args:
        core: OpenVINO.
        path: The graph.
        device: OpenVINO's name of the device.
        threads: CPU threads of a step.
        half: Compute in bfloat16, and take and give keys and values in it. Their bits are the
            same as through float32; only the conversions are gone.

    Raises:
        ArtifactError: It cannot be loaded; names the file.
    """
    options: dict[str, Any] = {
        # The default on a CPU with bfloat16 instructions is bfloat16, for every variant.
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if device == "CPU":
        # Pinned threads of two engines would land on the same cores.
        options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    try:
        model = core.read_model(path)
        return core.compile_model(_half_cache(model) if half else model, device, options)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: OpenVINO cannot load it: {reason_of(error)}",
            hint="check the files with `fungible artifact verify`",
        ) from error


def _half_cache(model: Any) -> Any:  # noqa: ANN401
    """The graph with keys and values in bfloat16 at its edges."""
    edges = PrePostProcessor(model)
    for port in model.inputs:
        if (name := port.get_any_name()).startswith("past_"):
            edges.input(name).tensor().set_element_type(openvino.Type.bf16)
    for port in model.outputs:
        if (name := port.get_any_name()).startswith("new_"):
            edges.output(name).tensor().set_element_type(openvino.Type.bf16)
    return edges.build()


def reason_of(error: RuntimeError) -> str:
    """What went wrong; most lines of OpenVINO's messages name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_BOILERPLATE)]
    return (told or lines or ["no reason given"])[-1]
