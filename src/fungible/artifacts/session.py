"""Open an artifact's ONNX graph in ONNX Runtime."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from fungible.artifacts.model_config import ModelConfig
from fungible.errors import ArtifactError

LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_SETTINGS = {
    # A decode step is hundreds of products of some microseconds: threads that slept between them
    # would wake for longer than they work. They spin during a step only: idle threads that did
    # would take the cores from the other engines of the machine.
    "session.intra_op.allow_spinning": "1",
    "session.force_spinning_stop": "1",
    "session.inter_op.allow_spinning": "0",
    # Integer products take activations in 8 bits as well; 1 would keep them in float32,
    # which has no fast kernel (five times slower on x86).
    "session.qdq_matmulnbits_accuracy_level": "4",
}


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """A session on the CPU that keeps little memory beyond the weights.

    Raises:
        ArtifactError: The graph or its weights cannot be loaded; names the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    # Patterns are remembered per shape, and every step has another one.
    options.enable_mem_pattern = False
    # Fatal ones only: an error is raised, and would be on standard error twice.
    options.log_severity_level = 4
    for key, value in _SETTINGS.items():
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except LOAD_ERRORS as error:
        if "bad_alloc" in str(error) or "Failed to allocate" in str(error):
            raise ArtifactError(
                f"{path}: there is not enough memory to load it",
                hint="free memory, or take a smaller variant",
            ) from error
        raise ArtifactError(
            f"{path}: ONNX Runtime cannot load it: {error}",
            hint="check the files with `fungible artifact verify`",
        ) from error


def appends_in_place(session: ort.InferenceSession) -> bool:
    """Whether the graph is one of `onnx_ort_graph`, which appends to the cache itself."""
    return any(entry.name == "last_index" for entry in session.get_inputs())


def all_logits(
    session: ort.InferenceSession, config: ModelConfig, tokens: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Float32 logits `(S, vocab)` after each of the tokens `(S,)`, from an empty cache."""
    count = len(tokens)
    empty = np.zeros((1, config.kv_heads, 0, config.head_dim), np.float32)
    feeds: dict[str, NDArray[Any]] = {"input_ids": tokens[None], "logits_index": np.arange(count)}
    if appends_in_place(session):
        feeds["last_index"] = np.array([count - 1], np.int32)
        feeds["total_length"] = np.array([count], np.int32)
    else:
        feeds["position_ids"] = np.arange(count)[None]
        feeds["attention_mask"] = np.tril(np.ones((count, count), np.bool_))[None, None]
    for layer in range(config.layers):
        feeds |= {f"past_key.{layer}": empty, f"past_value.{layer}": empty}
    return cast(NDArray[np.float32], session.run(["logits"], feeds)[0])
