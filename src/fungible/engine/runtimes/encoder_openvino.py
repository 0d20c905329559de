"""Embedding models in OpenVINO, on the same ONNX graph as ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungible.contract.target import Target
from fungible.engine.runtimes.openvino import compile_graph, find_device, open_core, reason_of
from fungible.errors import EngineError


class OpenVINOEncoder:
    """See `Encoder`.

    Args:
        artifact: Artifact directory.
        variant: A variant that its manifest lists.
        target: `openvino:cpu`, `openvino:gpu` or `openvino:npu`.
        threads: CPU threads of one batch.

    Raises:
        ArtifactError: The graph or its weights cannot be loaded.
        InputError: The device is unknown.
        UnavailableError: There is no such device here.
    """

    def __init__(self, artifact: Path, variant: str, target: Target, *, threads: int) -> None:
        core = open_core()
        device = find_device(core, target)
        model = compile_graph(core, artifact / variant / "model.onnx", device, threads)
        self._has_segments = len(model.inputs) > 2
        self._request: Any = model.create_infer_request()

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        if self._request is None:
            raise ValueError("the encoder is closed")
        feeds = {"input_ids": ids, "attention_mask": mask}
        if self._has_segments:
            feeds["token_type_ids"] = np.zeros_like(ids)
        try:
            found = self._request.infer(feeds)["embeddings"]
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO failed on a batch of {ids.shape}: {reason_of(error)}"
            ) from error
        return np.array(found)  # a copy: the request uses its buffers again

    def close(self) -> None:
        """See `Encoder.close`."""
        self._request = None
