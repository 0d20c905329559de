"""A program's weights, from the artifact's file to the device that runs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fungible.artifacts.program import Argument, Program
from fungible.artifacts.tensors import PROGRAM_TYPES, TensorFile
from fungible.errors import ArtifactError, EngineError


def runs_in_float32(program: Program, device: jax.Device) -> bool:
    """Whether a device should rather run the reference's program on widened weights.

    A CPU has fast products of float32 only: XLA's of bfloat16 take many times as long.
    """
    half = any(item.dtype in {"bfloat16", "float16"} for item in program.arguments)
    return half and device.platform == "cpu"


def _stored_type(stored: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """How a tensor is in the file: as the program takes it, or in half the bytes."""
    halved = stored in {"BF16", "F16"} and dtype == np.float32
    return jnp.dtype(PROGRAM_TYPES[stored]) if halved else dtype


def weight_arguments(program: Program) -> Iterator[Argument]:
    """The arguments that are tensors of the weights file; they come first."""
    for argument in program.arguments:
        if argument.name.startswith(("keys.", "values.")):
            return
        yield argument


def load_weights(path: Path, program: Program, device: jax.Device) -> tuple[jax.Array, ...]:
    """The program's weights on the device.

    On a CPU they stay where the file is mapped. Matrices of two bytes that the program takes in
    float32 are widened here, see `runs_in_float32`.

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
        stored = _stored_type(region.spec.dtype, dtype) if region else dtype
        size = int(np.prod(shape, dtype=np.int64)) * stored.itemsize
        if region is None or region.length != size:
            raise ArtifactError(
                f"{path}: tensor {argument.name} is missing, or not {argument.dtype} {[*shape]}",
                hint="build the artifact again with `fungible artifact build`",
            )
        data = mapped[region.offset : region.offset + region.length].view(stored).reshape(shape)
        if stored != dtype:
            data = data.astype(np.float32)
        try:
            weights.append(jax.device_put(data, device, may_alias=on_cpu))
        except jax.errors.JaxRuntimeError as error:
            raise EngineError(
                f"{path}: {device} has no room for the weights: {error}",
                hint="choose a smaller variant, or a device with more memory",
            ) from error
    return tuple(weights)
