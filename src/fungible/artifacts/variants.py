"""The table of variants: for each, how its files are written and who can run them.

To add a variant, add its name to `manifest.VARIANTS` and a row to `WRITERS`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from fungible.artifacts.checkpoint import Checkpoint
from fungible.artifacts.half_precision import float_layout, to_stored
from fungible.artifacts.manifest import REFERENCE, FileEntry, hash_file
from fungible.artifacts.onnx_graph import Weights, build_graph
from fungible.artifacts.onnx_ort_graph import build_ort_graph
from fungible.artifacts.onnx_ort_weights import BlockWeights, write_blocks
from fungible.artifacts.onnx_weights import FloatWeights, QuantisedWeights
from fungible.artifacts.quantised_step import QuantisedStepWeights
from fungible.artifacts.quantize import SCHEMES, write_quantised
from fungible.artifacts.stablehlo import export_programs
from fungible.artifacts.step_weights import FloatStepWeights, StepWeights
from fungible.artifacts.tensors import TensorFile, TensorWriter

WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"
# Runtimes of each kind of graph.
ONNX_RUNTIMES = ("onnxruntime", "openvino")
STABLEHLO_RUNTIMES = ("xla", "iree")
Progress = Callable[[str, int, int], None]
Files = dict[str, FileEntry]


class Writer(msgspec.Struct, frozen=True, kw_only=True):
    """How one variant is made.

    Attributes:
        words: How the weights are stored.
        bytes_per_weight: Of all its files, rounded up; for the check of free space.
        write: Called with the checkpoint, the artifact's directory, the variant's name and the
            progress; writes the files into the folder of that name and returns them.
        runtimes: Runtimes that can execute it.
    """

    words: str
    bytes_per_weight: float
    write: Callable[[Checkpoint, Path, str, Progress], Files]
    runtimes: tuple[str, ...] = (*ONNX_RUNTIMES, *STABLEHLO_RUNTIMES)


def _float(dtype: str) -> Callable[[Checkpoint, Path, str, Progress], Files]:
    """A writer of the weights once, and of the two graphs that point at them."""

    def write(checkpoint: Checkpoint, directory: Path, name: str, report: Progress) -> Files:
        folder, config = directory / name, checkpoint.config
        read = _reader(checkpoint, directory, name)
        specs = float_layout(config, dtype)
        with TensorWriter(folder / WEIGHTS, specs) as writer:
            for done, (tensor, spec) in enumerate(specs.items()):
                report(f"write {name}", done, len(specs))
                writer.add(tensor, to_stored(read(tensor), spec.dtype, tensor))
            files = {WEIGHTS: writer.finish()}
        files[GRAPH] = _write_graph(checkpoint, folder, FloatWeights(config, writer.regions))
        return files | _export(checkpoint, folder, FloatStepWeights(config, dtype), report)

    return write


def _quantised(*, stablehlo: bool) -> Callable[[Checkpoint, Path, str, Progress], Files]:
    """A writer of one of `SCHEMES`, with or without a StableHLO program."""

    def write(checkpoint: Checkpoint, directory: Path, name: str, report: Progress) -> Files:
        folder, config, scheme = directory / name, checkpoint.config, SCHEMES[name]
        entry, regions = write_quantised(
            checkpoint,
            _reader(checkpoint, directory, name),
            scheme,
            folder / WEIGHTS,
            lambda done, total: report(f"write {name}", done, total),
        )
        graph = _write_graph(checkpoint, folder, QuantisedWeights(config, scheme, regions))
        files = {WEIGHTS: entry, GRAPH: graph}
        if stablehlo:
            files |= _export(checkpoint, folder, QuantisedStepWeights(config, scheme), report)
        return files

    return write


def _int4_ort(checkpoint: Checkpoint, directory: Path, name: str, report: Progress) -> Files:
    """The blocks of `int4` under operators that ONNX Runtime alone has."""
    folder, config = directory / name, checkpoint.config
    entry, regions = write_blocks(
        checkpoint,
        _reader(checkpoint, directory, name),
        folder / WEIGHTS,
        lambda done, total: report(f"write {name}", done, total),
    )
    model = build_ort_graph(config, BlockWeights(config, regions), WEIGHTS)
    return {WEIGHTS: entry, GRAPH: _write_model(model, folder)}


WRITERS = {
    "f32": Writer(words="none (float32)", bytes_per_weight=4.0, write=_float("F32")),
    "bf16": Writer(
        words="bfloat16 matrices and float32 vectors, rounded to nearest",
        bytes_per_weight=2.0,
        write=_float("BF16"),
    ),
    "f16": Writer(
        words="float16 matrices and float32 vectors, rounded to nearest",
        bytes_per_weight=2.0,
        write=_float("F16"),
    ),
    "int8": Writer(
        words=SCHEMES["int8"].words, bytes_per_weight=1.5, write=_quantised(stablehlo=True)
    ),
    "int4": Writer(
        words=SCHEMES["int4"].words, bytes_per_weight=1.25, write=_quantised(stablehlo=True)
    ),
    "int4-ort": Writer(
        words="as int4, or a whole zero point; only ONNX Runtime's operators, so not for "
        f"{', '.join((*ONNX_RUNTIMES[1:], *STABLEHLO_RUNTIMES))}, preflight",
        bytes_per_weight=1.25,
        write=_int4_ort,
        runtimes=ONNX_RUNTIMES[:1],
    ),
    # A bad example on purpose: one kind of graph is enough of it.
    "int4-naive": Writer(
        words=SCHEMES["int4-naive"].words,
        bytes_per_weight=1.0,
        write=_quantised(stablehlo=False),
        runtimes=ONNX_RUNTIMES,
    ),
}


def _reader(
    checkpoint: Checkpoint, directory: Path, name: str
) -> Callable[[str], NDArray[np.float32]]:
    """Float32 tensors, from the reference's file once that is written: it is faster to read."""
    if name == REFERENCE:
        return checkpoint.read
    weights = TensorFile(directory / REFERENCE / WEIGHTS)

    def read(tensor: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = weights.read(tensor)
        return values

    return read


def _export(checkpoint: Checkpoint, folder: Path, weights: StepWeights, report: Progress) -> Files:
    report(f"export StableHLO of {folder.name}", 0, 1)
    names = export_programs(checkpoint.config, folder, weights)
    return {name: hash_file(folder / name) for name in names}


def _write_graph(checkpoint: Checkpoint, folder: Path, weights: Weights) -> FileEntry:
    return _write_model(build_graph(checkpoint.config, weights, WEIGHTS), folder)


def _write_model(model: ModelProto, folder: Path) -> FileEntry:
    data = model.SerializeToString(deterministic=True)
    (folder / GRAPH).write_bytes(data)
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
