"""Documentation that cannot go stale: what is public is on a page, or the build fails."""

import re
from pathlib import Path

import msgspec
import pytest

from fungible import config
from fungible.cli.main import COMMANDS
from fungible.errors import FungibleError

DOCS = Path(__file__).resolve().parents[2] / "docs"
STRUCTS = [
    value
    for value in vars(config).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_setting_is_documented(struct: type[msgspec.Struct]) -> None:
    page = (DOCS / "reference" / "config.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE))
    missing = {field.name for field in msgspec.structs.fields(struct)} - documented
    assert not missing, f"settings missing on docs/reference/config.md: {sorted(missing)}"


def test_every_command_is_documented() -> None:
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if f"fungible {name}" not in page]
    assert not missing, f"commands missing on docs/reference/cli.md: {missing}"


def test_every_error_is_drawn_in_the_tree() -> None:
    from fungible import errors  # noqa: PLC0415

    assert errors.__doc__ is not None
    names = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, FungibleError)
    ]
    assert [name for name in names if name not in errors.__doc__] == []


def test_relative_links_lead_somewhere() -> None:
    broken = []
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []
