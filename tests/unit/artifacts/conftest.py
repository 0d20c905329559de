from pathlib import Path

import pytest

from support.tiny_model import build_tiny_artifact, write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant of the tiny model; tests must not change it."""
    return build_tiny_artifact(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in one GGUF file; tests must not change it."""
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny-llama.F32.gguf")
