"""The tiny BERT of `tests/fixtures/encoder`, what transformers says of it, and its artifact."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from fungible.artifacts.build import build_artifact
from fungible.artifacts.store import ArtifactStore

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "encoder"
NAME = "tiny-bert"
WIDTH, CONTEXT = 32, 40


def expected() -> dict[str, NDArray[Any]]:
    """Tokens and embeddings by name."""
    return load_file(FIXTURE / "expected.safetensors")


def texts() -> list[str]:
    """What the embeddings are of."""
    with safe_open(FIXTURE / "expected.safetensors", "numpy") as file:
        return list(json.loads(file.metadata()["texts"]))


def token_rows() -> list[list[int]]:
    """The texts' tokens, without filling."""
    found = expected()
    pairs = zip(found["input_ids"], found["attention_mask"], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in pairs]


def write_checkpoint(directory: Path) -> Path:
    """A copy of the checkpoint that a test may change; returns it."""
    shutil.copytree(FIXTURE, directory, ignore=shutil.ignore_patterns("expected*", "README*"))
    return directory


def edit(path: Path, **fields: object) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def build(source: Path, root: Path) -> Path:
    """Build a checkpoint into the store at `root`; the artifact's directory."""
    return build_artifact(str(source), ArtifactStore(root))


def apart(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest difference of two numbers."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max())
