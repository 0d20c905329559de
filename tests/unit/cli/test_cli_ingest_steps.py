"""`fungible ingest steps` brings step logs and metrics in, as often as one likes."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fungible.cli import main as cli_main
from fungible.config import Config
from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.ledger.access import open_access
from fungible.ledger.spool import SpoolWriter
from support.vllm_pages import pages

S = 1_000_000_000
T0 = 1_790_000_040 * S
Run = Callable[..., tuple[int, str, str]]


def attempt(name: str, prompt: int) -> AttemptEvent:
    return AttemptEvent(
        attempt_id=f"att_{name}",
        request_id=f"req_{name}",
        attempt_no=0,
        kind="serve",
        endpoint="chat/completions",
        model="assistant",
        backend="own",
        backend_kind="openai_http",
        started_ns=T0,
        ended_ns=T0 + S,
        status="ok",
        in_uncached=prompt,
        in_cache_read=0,
        in_cache_write=0,
        out_visible=100,
        out_reasoning=0,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "prices.csv").write_text("key,unit,leaf,price,currency\nown,hour,,3.6,USD\n")
    writer = SpoolWriter(home / "spool", "gateway-0")
    writer.write(
        attempt("1", 1000),
        attempt("2", 0),
        LeaseEvent(
            lease_id="l", backend="own", accelerator="a", started_ns=T0, seen_ns=T0 + 60 * S
        ),
    )
    writer.close()
    return home


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        argv = ["fungible", "ingest", "steps", *arguments, "--home", str(home)]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as ended:
            cli_main.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def asked(home: Path, sql: str) -> list[tuple[Any, ...]]:
    access = open_access(Config(home=str(home)))
    try:
        return access.query(sql).rows
    finally:
        access.close()


def test_a_step_log_from_elsewhere_shares_the_hour(home: Path, run: Run, tmp_path: Path) -> None:
    lines: list[Any] = [
        {"run": "r", "monotonic": 0, "unix": T0 // S},
        {"step": 1, "start": 0.0, "seconds": 0.004, "requests": [{"id": "att_1", "prefill": 3}]},
        {"step": 2, "start": 1, "seconds": -1, "requests": []},
        {"step": 3, "start": 2, "seconds": 0.006, "requests": [{"id": "att_2"}, {"id": "att_1"}]},
    ]
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "torn")
    for _ in range(2):
        code, out, err = run(str(path), "--backend", "own")
        assert (code, out) == (0, "steps.jsonl: 2 taken, 1 rejected\n")
        assert "line 3: its seconds are missing" in err
    costs = asked(home, "SELECT attempt_id, cost, rule FROM attempts ORDER BY 1")
    assert costs == [
        ("att_1", Decimal("0.000007"), "steps_equal"),
        ("att_2", Decimal("0.000003"), "steps_equal"),
    ]
    kept = asked(home, "SELECT place, sample FROM rejects FINAL")
    assert [place for place, _ in kept] == ["line 3"]


def test_scrapes_weigh_the_classes(home: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    path.write_text(pages())
    code, out, _ = run(str(path), "--backend", "own", "--json")
    assert code == 0
    assert json.loads(out)[0]["rows"] == 40
    costs = asked(home, "SELECT attempt_id, cost, rule FROM attempts ORDER BY 1")
    assert [row[2] for row in costs] == ["class", "class"]
    assert costs[0][1] > costs[1][1]
    assert asked(home, "SELECT sum(amount) FROM costs") == [(Decimal("0.001"),)]


def test_what_is_neither_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("hello\n")
    code, _, err = run(str(path), "--backend", "own")
    assert (code, "nothing says when this was scraped" in err) == (2, True)
    code, _, err = run(str(tmp_path / "missing"), "--backend", "own")
    assert (code, "cannot be read" in err) == (2, True)
