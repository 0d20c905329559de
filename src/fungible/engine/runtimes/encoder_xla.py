"""Embedding models by XLA: the exported StableHLO program through JAX's PJRT client."""

from pathlib import Path

import jax
import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.encoder_config import INPUTS
from fungible.artifacts.program import load_program
from fungible.contract.target import Target
from fungible.engine.runtimes.xla_device import (
    load_exported,
    open_device,
    use_compilation_cache,
)
from fungible.engine.runtimes.xla_weights import load_weights
from fungible.errors import EngineError

_SHORTEST = 16  # tokens; shorter batches are filled up to it


class XLAEncoder:
    """See `Encoder`.

    XLA compiles for each shape, so batches are filled up: texts to a power of two, tokens to
    the next of 16, 24, 32, 48, 64, 96 …, at most the context. Compiled code is kept on disk.

    Args:
        artifact: Artifact directory.
        variant: A variant with a StableHLO program.
        target: `xla:DEVICE`; a device other than `cpu` needs its PJRT plugin.
        threads: CPU threads; the first runtime of a process decides for all of them.

    Raises:
        ArtifactError: The variant has no program, or its files do not fit together.
        UnavailableError: JAX finds no such device here.
    """

    def __init__(self, artifact: Path, variant: str, target: Target, *, threads: int) -> None:
        folder = artifact / variant
        program = load_program(folder)
        self._device = open_device(target, threads)
        use_compilation_cache(artifact.parent / ".cache" / "xla")
        stored = [one for one in program.arguments if one.name not in INPUTS]
        program = msgspec.structs.replace(program, arguments=stored)
        self._weights = load_weights(folder / "model.safetensors", program, self._device)
        self._context = program.context
        self._run = jax.jit(load_exported(folder, program).call)

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        count, length = ids.shape
        shape = rounded_rows(count), rounded_length(length, self._context)
        tokens, there = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        tokens[:count, :length], there[:count, :length] = ids, mask
        there[count:, 0] = 1  # a text without any token has no mean
        try:
            inputs = jax.device_put((tokens, there, np.zeros(shape, np.int32)), self._device)
            found = np.asarray(self._run(self._weights, *inputs))
        except jax.errors.JaxRuntimeError as error:
            raise EngineError(f"XLA failed on a batch of {shape}: {error}") from error
        return found[:count]

    def close(self) -> None:
        """See `Encoder.close`."""
        self._weights = ()


def rounded_rows(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def rounded_length(length: int, context: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, 128 … tokens; at most `context`."""
    below = 1 << (max(length, _SHORTEST) - 1).bit_length() - 1
    half = below + below // 2
    return min(context, half if _SHORTEST < length <= half else 2 * below)
