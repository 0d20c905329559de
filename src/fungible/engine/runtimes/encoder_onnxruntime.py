"""Embedding models in ONNX Runtime on the CPU."""

from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fungible.artifacts.session import LOAD_ERRORS, open_session
from fungible.contract.target import Target
from fungible.errors import EngineError, InputError


class ONNXEncoder:
    """See `Encoder`.

    Args:
        artifact: Artifact directory.
        variant: A variant that its manifest lists.
        target: `onnxruntime:cpu`.
        threads: Of one batch; between batches they sleep.

    Raises:
        ArtifactError: The graph or its weights cannot be loaded.
        InputError: The device is not here.
    """

    def __init__(self, artifact: Path, variant: str, target: Target, *, threads: int) -> None:
        if target.device != "cpu" or target.arch:
            raise InputError(
                f"target {target}: ONNX Runtime runs on the CPU here", hint="use onnxruntime:cpu"
            )
        session = open_session(artifact / variant / "model.onnx", threads)
        self._has_segments = "token_type_ids" in {value.name for value in session.get_inputs()}
        self._session: ort.InferenceSession | None = session

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        if self._session is None:
            raise ValueError("the encoder is closed")
        feeds = {"input_ids": ids, "attention_mask": mask}
        if self._has_segments:
            feeds["token_type_ids"] = np.zeros_like(ids)
        try:
            found = self._session.run(["embeddings"], feeds)
        except LOAD_ERRORS as error:
            raise EngineError(f"ONNX Runtime failed on a batch of {ids.shape}: {error}") from error
        return cast(NDArray[np.float32], found[0])

    def close(self) -> None:
        """See `Encoder.close`."""
        self._session = None
