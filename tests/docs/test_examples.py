"""Every example configuration loads."""

from pathlib import Path

import pytest

from fungible.config import load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").rglob("*.toml")), ids=lambda path: path.parent.name
)
def test_an_example_loads(path: Path) -> None:
    config = load_config(path)
    assert config.backend
    assert config.route
