"""`fungible ingest responses` as a person or a script sees it."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fungible.cli import main as cli_main
from fungible.ingest import run as ingest_run

Run = Callable[..., tuple[int, str, str]]
SHEET = """\
key,unit,leaf,price,currency
hosted,1M_tokens,input,1,USD
hosted,1M_tokens,output,10,USD
"""


def body(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "m",
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    } | changes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "prices.csv").write_text(SHEET, encoding="utf-8")
    (home / "fungible.toml").write_text('[ledger]\nprices = "prices.csv"\n', encoding="utf-8")
    return home


@pytest.fixture
def fungible(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.chdir(home)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fungible", *arguments, "--home", str(home)])
        with pytest.raises(SystemExit) as ended:
            cli_main.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def log_of(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def ask(fungible: Run, sql: str) -> list[list[Any]]:
    code, out, err = fungible("cost", "sql", sql, "--json")
    assert code == 0, err
    rows: list[list[Any]] = json.loads(out)["rows"]
    return rows


def test_what_was_imported_is_priced_when_the_command_returns(fungible: Run, home: Path) -> None:
    log = log_of(home / "a.jsonl", body("r1"), body("r2"), {"no": 1}, body("r1"))
    code, out, err = fungible("ingest", "responses", str(log), "--backend", "hosted")
    assert code == 0
    assert out == "a.jsonl: 3 taken, 1 rejected, 0 skipped\n"
    assert "line 3: this is no response body" in err
    rows = ask(fungible, "SELECT response_id, backend, cost FROM attempts ORDER BY response_id")
    assert [row[:2] for row in rows] == [["r1", "hosted"], ["r2", "hosted"]]
    assert {float(row[2]) for row in rows} == {0.002}
    assert ask(fungible, "SELECT place, reason FROM rejects")[0][0] == "line 3"


def test_a_file_is_read_once_unless_it_is_asked_for_again(fungible: Run, home: Path) -> None:
    log = log_of(home / "a.jsonl", body("r1"))
    assert (
        fungible("ingest", "responses", str(log))[1] == "a.jsonl: 1 taken, 0 rejected, 0 skipped\n"
    )
    assert "imported before" in fungible("ingest", "responses", str(log))[1]
    code, out, _ = fungible("ingest", "responses", str(log), "--again", "--json")
    assert (code, json.loads(out)["files"][0]["receipt"]["rows"]) == (0, 1)
    other = log_of(home / "b.jsonl", body("r1"))
    assert "imported before" in fungible("ingest", "responses", str(other))[1]
    assert ask(fungible, "SELECT count(), uniqExact(attempt_id) FROM attempts") == [[1, 1]]


def test_nothing_but_rejects_is_exit_2_and_strict_ends_at_the_first(
    fungible: Run, home: Path
) -> None:
    log = log_of(home / "a.jsonl", {"no": 1}, {"no": 2})
    assert fungible("ingest", "responses", str(log))[0] == 2
    mixed = log_of(home / "b.jsonl", body("r1"), {"no": 3}, body("r2"))
    code, _, err = fungible("ingest", "responses", str(mixed), "--strict")
    assert (code, "b.jsonl: line 2: this is no response body" in err) == (2, True)
    assert ask(fungible, "SELECT response_id FROM attempts") == [["r1"]]
    assert fungible("ingest", "responses", str(home / "missing.jsonl"))[0] == 2


def test_a_directory_and_standard_input(
    fungible: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "logs" / "day"
    folder.mkdir(parents=True)
    log_of(folder / "a.jsonl", body("r1"))
    log_of(folder / "b.json", body("r2"))
    (folder / "notes.txt").write_text("not a log", encoding="utf-8")
    _, out, _ = fungible("ingest", "responses", str(home / "logs"), "--json")
    assert [one["receipt"]["rows"] for one in json.loads(out)["files"]] == [1, 1]
    typed = io.TextIOWrapper(io.BytesIO(json.dumps(body("r3")).encode()))
    monkeypatch.setattr(sys, "stdin", typed)
    assert fungible("ingest", "responses", "-")[1] == "stdin: 1 taken, 0 rejected, 0 skipped\n"
    assert ask(fungible, "SELECT count() FROM attempts") == [[3]]


def test_a_big_import_does_not_fill_the_spool(
    fungible: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_run, "ROOM_ROWS", 1000)
    monkeypatch.setattr(ingest_run, "LOOK_S", 0.8)
    (home / "fungible.toml").write_text("[ledger]\nmax_spool_bytes = 4000000\n", encoding="utf-8")
    log = log_of(home / "a.jsonl", *(body(f"r{number}") for number in range(6000)))
    code, out, err = fungible("ingest", "responses", str(log))
    assert (code, out) == (0, "a.jsonl: 6000 taken, 0 rejected, 0 skipped\n"), err
    assert ask(fungible, "SELECT count() FROM attempts") == [[6000]]
