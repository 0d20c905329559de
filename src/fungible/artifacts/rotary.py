"""Rotary position embeddings (Su et al., 2021): the frequencies of each family and their tables."""

import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.model_config import ModelConfig, RopeScaling


def frequencies(config: ModelConfig, *, windowed: bool = False) -> NDArray[np.float64]:
    """Radians per position, `[turning / 2]`, of the layers with or without the window."""
    local = config.local_rope_theta if windowed else None
    exponents = np.arange(0, config.turning, 2, dtype=np.float64) / config.turning
    plain: NDArray[np.float64] = (local or config.rope_theta) ** -exponents
    if local is not None or config.rope_scaling is None:
        return plain
    return _stretched(plain, config.rope_scaling)


def amplitude(config: ModelConfig, *, windowed: bool = False) -> float:
    """What sines and cosines are multiplied by."""
    local = windowed and config.local_rope_theta is not None
    return 1.0 if local or config.rope_scaling is None else config.rope_scaling.amplitude


def rotary_tables(
    config: ModelConfig, *, windowed: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosine and sine of position × frequency, `[context, turning / 2]`."""
    angles = np.outer(np.arange(config.context), frequencies(config, windowed=windowed))
    scale = amplitude(config, windowed=windowed)
    return (scale * np.cos(angles)).astype(np.float32), (scale * np.sin(angles)).astype(np.float32)


def _stretched(plain: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    if scaling.kind == "linear":
        slower: NDArray[np.float64] = plain / scaling.factor
        return slower
    if scaling.kind == "longrope":
        return plain / np.array(scaling.factors, np.float64)
    # Llama 3.1: slow frequencies are divided, fast ones kept, and those between are blended.
    turns = scaling.original_context * plain / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    blended: NDArray[np.float64] = kept * plain + (1 - kept) * plain / scaling.factor
    return blended
