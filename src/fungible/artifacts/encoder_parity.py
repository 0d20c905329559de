"""Do an encoder's two graphs say the same: one run of each on fixed texts of unequal length."""

from pathlib import Path

import jax
import numpy as np
from jax import export
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fungible.artifacts.manifest import Manifest
from fungible.artifacts.parity import TEXT
from fungible.artifacts.program import load_program
from fungible.artifacts.session import open_session
from fungible.artifacts.tensors import TensorFile
from fungible.errors import ArtifactError

# Two runtimes that compute in float32 differ by the order of sums only; relative to the length
# of an embedding.
TOLERANCE = 1e-4
_THREADS = 2
Batch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def difference(artifact: Path, manifest: Manifest, variant: str) -> float:
    """The largest length of a difference of embeddings, relative to the embedding's.

    Raises:
        ArtifactError: A graph cannot be loaded.
    """
    batch = _batch(artifact, manifest)
    onnx = _by_onnx(artifact / variant, batch)
    stablehlo = _by_stablehlo(artifact / variant, batch)
    apart = np.linalg.norm(onnx - stablehlo, axis=-1) / np.linalg.norm(onnx, axis=-1)
    return float(apart.max())


def require_same(artifact: Path, manifest: Manifest, variant: str) -> None:
    """Raise `ArtifactError` when the two graphs differ by more than `TOLERANCE`."""
    if problem := disagreement(artifact, manifest, variant):
        raise ArtifactError(
            f"{manifest.name}: {problem}",
            hint="its weights may be beyond float32; please report the model",
        )


def disagreement(artifact: Path, manifest: Manifest, variant: str) -> str:
    """How the two graphs differ, in words; empty when they do not."""
    apart = difference(artifact, manifest, variant)
    # Written so that a difference that is no number is a problem.
    if apart <= TOLERANCE:
        return ""
    return f"embeddings of ONNX and StableHLO differ by {apart:.1e} (allowed {TOLERANCE:g})"


def _batch(artifact: Path, manifest: Manifest) -> Batch:
    """Tokens, mask and segments `(B, S)`."""
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    paragraphs = TEXT.split("\n\n")
    texts = [*paragraphs, paragraphs[0].split(".", 1)[0]]
    longest = min(manifest.config.context, 64)
    rows = [encoding.ids[:longest] for encoding in tokenizer.encode_batch(texts)]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
    return ids, mask, np.zeros_like(ids)


def _by_onnx(folder: Path, batch: Batch) -> NDArray[np.float32]:
    session = open_session(folder / "model.onnx", _THREADS)
    names = [value.name for value in session.get_inputs()]
    feeds = dict(zip(names, batch, strict=False))  # a model without segments takes two
    found: NDArray[np.float32] = session.run(["embeddings"], feeds)[0]
    return found


def _by_stablehlo(folder: Path, batch: Batch) -> NDArray[np.float32]:
    program = load_program(folder)
    exported = export.deserialize(bytearray((folder / program.jax_export).read_bytes()))
    file = TensorFile(folder / "model.safetensors")
    named = [one.name for one in program.arguments if one.name in file.regions]
    weights = tuple(file.read(name) for name in named)
    inputs = [part.astype(np.int32) for part in batch]
    device = jax.devices("cpu")[0]
    with jax.default_device(device):
        return np.asarray(jax.jit(exported.call)(weights, *inputs))
