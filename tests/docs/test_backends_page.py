"""The page on backends: its examples load, and it names every kind and every option."""

import re
from pathlib import Path

import msgspec
import pytest

from fungible.backends.registry import build_backend, kinds
from fungible.config import load_config

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "backends.md").read_text(
    "utf-8"
)
SECTIONS = dict(re.findall(r"^## `([a-z_]+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
COMMON = {"connect_timeout_s", "idle_timeout_s"}


def test_every_kind_has_a_section() -> None:
    assert set(SECTIONS) == set(kinds())


@pytest.mark.parametrize("kind", sorted(SECTIONS))
def test_examples_load_and_build(kind: str, tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", SECTIONS[kind], re.DOTALL)
    assert examples
    for example in examples:
        path = tmp_path / "fungible.toml"
        path.write_text(example, encoding="utf-8")
        for name, settings in load_config(path).backend.items():
            assert settings.kind == kind
            assert build_backend(name, settings).name == name


@pytest.mark.parametrize("kind", sorted(SECTIONS))
def test_every_option_is_documented(kind: str) -> None:
    module = __import__(kinds()[kind].module, fromlist=["*"])
    (options,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__name__.endswith("Options")
        and value.__module__ == module.__name__
    )
    rows = "".join(re.findall(r"^\| `[^|]*\|", SECTIONS[kind], re.MULTILINE))
    documented = set(re.findall(r"`([a-z_]+)`", rows)) | COMMON
    missing = {field.name for field in msgspec.structs.fields(options)} - documented
    assert not missing
