"""A program's weights, from the artifact's file to the device that runs it."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fungible.artifacts.program import Argument, Program
from fungible.artifacts.tensors import TensorFile
from fungible.errors import ArtifactError, EngineError


def weight_arguments(program: Program) -> Iterator[Argument]:
    """The arguments that are tensors of the weights file; they come first."""
    for argument in program.arguments:
        if argument.name.startswith(("keys.", "values.")):
            return
        yield argument


def load_weights(path: Path, program: Program, device: jax.Device) -> tuple[jax.Array, ...]:
    """The program's weights on the device.

    On a CPU they stay where the file is mapped, except those of two bytes: the products of a
    CPU take float32, so they are widened once rather than in each step. `StepCompiler` narrows
    them again before the program, and XLA drops that pair.

    Raises:
        ArtifactError: The file does not hold what the program takes; names file and tensor.
        EngineError: The device has no room for them.
    """
    file = TensorFile(path)
    mapped = np.memmap(path, np.uint8, mode="r")
    on_cpu = device.platform == "cpu"
    weights = []
    for argument in weight_arguments(program):
        dtype = jnp.dtype(argument.dtype)
        shape = tuple(int(size) for size in argument.shape)
        region = file.regions.get(argument.name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if region is None or region.length != size:
            raise ArtifactError(
                f"{path}: tensor {argument.name} is missing, or not {argument.dtype} {[*shape]}",
                hint="build the artifact again with `fungible artifact build`",
            )
        data = mapped[region.offset : region.offset + region.length].view(dtype).reshape(shape)
        if on_cpu and dtype.itemsize == 2:
            data = data.astype(np.float32)
        try:
            weights.append(jax.device_put(data, device, may_alias=on_cpu))
        except jax.errors.JaxRuntimeError as error:
            raise EngineError(
                f"{path}: {device} has no room for the weights: {error}",
                hint="choose a smaller variant, or a device with more memory",
            ) from error
    return tuple(weights)
