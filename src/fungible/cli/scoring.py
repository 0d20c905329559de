"""Logits of a variant on any runtime that this process can open."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fungible.contract.target import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def score_on_target(
    artifact: Path, variant: str, target: Target, tokens: "NDArray[np.int64]"
) -> "NDArray[np.float32]":
    """Float32 logits `(S, vocab)` after each of the tokens `(S,)`; see `target_parity.Score`.

    Raises:
        FungibleError: The runtime is not installed, or cannot run the variant here.
    """
    from fungible.engine.runtimes.registry import open_runtime  # noqa: PLC0415  # heavy

    runtime = open_runtime(
        artifact, variant, target, slots=1, context=len(tokens), threads=os.cpu_count() or 1
    )
    try:
        return runtime.score(0, tokens)
    finally:
        runtime.close()
