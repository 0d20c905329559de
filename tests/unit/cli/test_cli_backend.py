"""`fungible backend`: its output, its exit codes, its errors."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fungible.cli.backend import backend
from fungible.errors import ConfigError, UpstreamConnectError

CONFIG = """
home = "home"
[backend.good]
kind = "null"
options = { text = "one two three" }
accelerator = "none"
[backend.mute]
kind = "null"
options = { text = "" }
[backend.dead]
kind = "null"
options = { fail_rate = 1.0, fail_status = 500 }
[backend.exotic]
kind = "telepathy"
[route.m]
reference = "good"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fungible.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def run(config: Path, *arguments: str) -> Result:
    options = ["--config", str(config)]
    return CliRunner().invoke(backend, [*arguments, *options], catch_exceptions=True)


def without_exotic(config: Path) -> None:
    config.write_text(CONFIG.replace('[backend.exotic]\nkind = "telepathy"\n', ""))


def test_list_names_every_backend_and_what_is_not_installed(config: Path) -> None:
    done = run(config, "list", "--json")
    rows = {row["backend"]: row for row in json.loads(done.stdout)}
    assert list(rows) == ["good", "mute", "dead", "exotic"]
    assert rows["good"]["accelerator"] == "none"
    assert [name for name, row in rows.items() if not row["installed"]] == ["exotic"]
    assert rows["good"]["accelerator_facts"]["reached"] == "null"
    assert rows["mute"]["accelerator_facts"] is None
    plain = run(config, "list")
    assert "telepathy" in plain.stderr
    assert "good" in plain.stdout


def test_accelerators_are_listed_with_their_sources() -> None:
    rows = {
        row["id"]: row
        for row in json.loads(CliRunner().invoke(backend, ["accelerators", "--json"]).stdout)
    }
    assert rows["aws-trainium2"]["memory_gb"] > 100
    assert rows["aws-trainium2"]["sources"]
    plain = CliRunner().invoke(backend, ["accelerators"]).stdout
    assert "microsoft-maia-200" in plain
    assert "vertex" in plain


def test_check_passes_what_applications_can_do_with(config: Path) -> None:
    without_exotic(config)
    done = run(config, "check", "good", "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert (report["backend"], report["model"], report["passed"]) == ("good", "m", True)
    assert report["drift"] == []
    assert run(config, "check", "good").stdout.count("honoured") >= 5


def test_check_fails_what_they_cannot(config: Path) -> None:
    without_exotic(config)
    done = run(config, "check", "mute", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["passed"] is False


@pytest.mark.parametrize(("name", "error"), [("dead", UpstreamConnectError), ("no", ConfigError)])
def test_check_of_what_cannot_answer_is_one_error(
    config: Path, name: str, error: type[Exception]
) -> None:
    without_exotic(config)
    assert isinstance(run(config, "check", name).exception, error)


def test_check_leaves_rows(config: Path) -> None:
    without_exotic(config)
    run(config, "check", "good")
    assert list((config.parent / "home" / "spool").glob("check-*/*.seg"))


def test_check_says_what_changed_since_the_last_time(config: Path, tmp_path: Path) -> None:
    without_exotic(config)
    run(config, "check", "good")
    config.write_text(config.read_text().replace("one two three", "one"))
    saved = tmp_path / "saved.json"
    done = run(config, "check", "good", "--json", "--save", str(saved))
    drift = {one["name"]: (one["before"], one["now"]) for one in json.loads(done.stdout)["drift"]}
    assert drift["max_tokens"] == ("honoured", "degraded")
    assert json.loads(saved.read_text()) == json.loads(done.stdout)
    assert len(list((tmp_path / "home" / "reports" / "backends" / "good").glob("*.json"))) >= 1
