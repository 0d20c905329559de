"""What `fungible key` prints goes into fungible.toml as it is, and shows no secret twice."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fungible.cli.key import key
from fungible.config import LimitSettings, load_config
from fungible.errors import ConfigError, InputError
from fungible.gateway.auth import KeyRing

MAKE = [
    *("new", "--name", "team", "--owner", 'o"ps', "--customer", "acme", "--model", "m"),
    *("--expires", "9999-01-31T18:00+01:00", "--requests-per-minute", "60"),
    *("--budget-per-day", "2.50", "--json"),
]


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, Path]:
    """The secret, and a configuration with what was printed."""
    result = CliRunner().invoke(key, MAKE, catch_exceptions=False)
    line = json.loads(result.stdout)
    path = tmp_path / "fungible.toml"
    path.write_text(line["toml"], encoding="utf-8")
    return line["key"], path


def test_what_is_printed_is_the_configuration(made: tuple[str, Path]) -> None:
    secret, path = made
    settings = load_config(path).key["team"]
    assert (settings.owner, settings.customer, settings.models) == ('o"ps', "acme", ["m"])
    assert settings.limits == LimitSettings(requests_per_minute=60, budget_per_day="2.50")
    assert secret not in path.read_text(encoding="utf-8")
    plain = load_config(path)
    assert KeyRing(plain).authenticate(f"Bearer {secret}")[0] == "team"


@pytest.mark.parametrize("command", [["list"], ["show", "team"]])
@pytest.mark.parametrize("as_json", [True, False])
def test_keys_are_shown_without_their_secret(
    made: tuple[str, Path], command: list[str], as_json: bool
) -> None:
    secret, path = made
    more = ["--config", str(path), *(["--json"] if as_json else [])]
    result = CliRunner().invoke(key, [*command, *more], catch_exceptions=False)
    assert "team" in result.stdout
    assert "acme" in result.stdout
    assert secret not in result.output
    assert load_config(path).key["team"].hash not in result.output


def test_no_such_key(made: tuple[str, Path]) -> None:
    with pytest.raises(InputError, match="no key 'x'") as caught:
        CliRunner().invoke(key, ["show", "x", "--config", str(made[1])], catch_exceptions=False)
    assert "team" in caught.value.hint


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--expires", "soon", "--expires"), ("--budget-total", "1e3", "budget_total")],
)
def test_what_would_not_load_is_not_made(option: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(key, ["new", option, value], catch_exceptions=False)
