"""A program with symbolic sizes, lowered by XLA at concrete ones for a device that is not here.

Runs in the worker process only: it imports JAX.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from fungible.artifacts.program import load_program
from fungible.preflight.counts import StepShape, caches


def lower_step(folder: Path, shape: StepShape, device: jax.Device) -> Any:  # noqa: ANN401
    """The step of a variant's folder, lowered at `shape` for `device`.

    The caches are donated, as the engine does, so that the compiler can update them in place.
    """
    program = load_program(folder)
    exported = export.deserialize(bytearray((folder / program.jax_export).read_bytes()))
    sharding = jax.sharding.SingleDeviceSharding(device)
    symbols = shape.symbols()
    arguments = [
        jax.ShapeDtypeStruct(
            tuple(symbols[size] if isinstance(size, str) else size for size in argument.shape),
            jnp.dtype(argument.dtype),
            sharding=sharding,
        )
        for argument in program.arguments
    ]
    cached = {each.name for each in caches(program)}
    donated = tuple(at for at, each in enumerate(program.arguments) if each.name in cached)

    def step(*flat: Any) -> Any:  # noqa: ANN401
        positional, named = jax.tree.unflatten(exported.in_tree, flat)
        return exported.call(*positional, **named)

    return jax.jit(step, donate_argnums=donated).lower(*arguments)
