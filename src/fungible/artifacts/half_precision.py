"""Matrices in two bytes per weight: `bf16` and `f16`. Vectors stay in float32, they are small."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.checkpoint import expected_tensors
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.tensors import TensorSpec
from fungible.errors import ArtifactError


def float_layout(config: ModelConfig, dtype: str) -> dict[str, TensorSpec]:
    """Every tensor of a floating-point variant's safetensors file, in file order.

    Args:
        config: The model's shape.
        dtype: Of the matrices: `F32`, `BF16` or `F16`.
    """
    return {
        name: TensorSpec(dtype if len(shape) > 1 else "F32", shape)
        for name, shape in expected_tensors(config).items()
    }


def to_stored(values: NDArray[np.float32], dtype: str, name: str) -> NDArray[Any]:
    """Finite values rounded to nearest, ties to even; bfloat16 as its bits in uint16.

    Raises:
        ArtifactError: A value is beyond what the type can hold; names the tensor.
    """
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise ArtifactError(
                f"tensor {name} holds {np.abs(values).max():g}, which float16 cannot",
                hint="build bf16 instead of f16",
            )
        return half
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: NDArray[np.uint16] = (bits + 0x7FFF + ((bits >> 16) & 1) >> 16).astype(np.uint16)
    if ((rounded & 0x7F80) == 0x7F80).any():
        raise ArtifactError(
            f"tensor {name} holds {np.abs(values).max():g}, which bfloat16 cannot",
            hint="build f32 only",
        )
    return rounded
