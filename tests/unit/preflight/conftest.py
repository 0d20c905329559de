from pathlib import Path

import pytest

from support.tiny_model import build_tiny_artifact


@pytest.fixture(scope="session")
def tiny_f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's `f32` variant only; tests must not change it."""
    return build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=("f32",))
