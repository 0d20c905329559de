"""`fungible cost` as a person or a script sees it."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fungible.cli import main as cli_main
from fungible.cli.cost import parse_since
from fungible.cli.tables import cell, money
from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.errors import InputError
from fungible.ledger.spool import SpoolWriter

S = 1_000_000_000
T0 = 1_790_000_040 * S
SHEET = """\
key,unit,leaf,price,currency
by-hour,hour,,3.6,USD
by-token,1M_tokens,input,1,USD
by-token,1M_tokens,output,10,USD
"""
Run = Callable[..., tuple[int, str, str]]


def attempt(name: str, **changes: Any) -> AttemptEvent:
    fields: dict[str, Any] = {
        "attempt_id": f"att_{name}",
        "request_id": f"req_{name}",
        "attempt_no": 0,
        "kind": "serve",
        "endpoint": "chat/completions",
        "model": "assistant",
        "backend": "by-token",
        "backend_kind": "null",
        "started_ns": T0,
        "ended_ns": T0 + S,
        "status": "ok",
        "in_uncached": 1000,
        "in_cache_read": 0,
        "in_cache_write": 0,
        "out_visible": 100,
        "out_reasoning": 0,
    }
    return AttemptEvent(**(fields | changes))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "prices.csv").write_text(SHEET, encoding="utf-8")
    writer = SpoolWriter(home / "spool", "gateway-0")
    writer.write(
        attempt("1", customer="acme"),
        attempt("2", backend="by-hour"),
        attempt("3", backend="elsewhere"),
        LeaseEvent(
            lease_id="l", backend="by-hour", accelerator="a", started_ns=T0, seen_ns=T0 + 60 * S
        ),
    )
    writer.close()
    return home


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, at: Path = home) -> tuple[int, str, str]:
        argv = ["fungible", "cost", *arguments, "--home", str(at)]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as ended:
            cli_main.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_a_report_reads_well(run: Run) -> None:
    code, out, err = run("report", "--by", "customer")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["customer", "requests", "attempts"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "acme",
        "(unattributed)",
        "idle: by-hour, stranded (platform)",
        "total",
    ]
    assert "0.002000" in lines[1]
    assert lines[3].split()[4] == "0.05900"
    assert "attempts without a price: 1" in err


def test_a_report_as_data(run: Run) -> None:
    code, out, _ = run("report", "--by", "backend", "--json")
    assert code == 0
    data = json.loads(out)
    costs = {row["name"]: row["cost"] for row in data["rows"]}
    assert costs == {
        "by-token": "0.002000000000000000",
        "by-hour": "0.001000000000000000",
        "elsewhere": None,
    }
    assert data["total"] == "0.062000000000000000"
    code, out, _ = run("report", "--since", "1h", "--json", "--kind", "all")
    assert (code, json.loads(out)["rows"]) == (0, [])


def test_sql_as_text_and_as_data(run: Run) -> None:
    query = "SELECT attempt_id, cost, tags FROM attempts ORDER BY 1"
    code, out, _ = run("sql", query)
    assert code == 0
    assert out.splitlines()[1:] == [
        "att_1       0.002000000000000000  {}",
        "att_2       0.001000000000000000  {}",
        "att_3                       NULL  {}",
    ]
    code, out, _ = run("sql", query, "--json")
    data = json.loads(out)
    assert data["columns"] == ["attempt_id", "cost", "tags"]
    assert data["rows"][0] == ["att_1", "0.002000000000000000", {}]
    _, out, _ = run("sql", "SELECT amount - amount FROM idle", "--json")
    assert json.loads(out)["rows"] == [["0.000000000000000000"]]
    code, out, _ = run("sql", "SELECT attempt_id FROM attempts WHERE 0")
    assert (code, out) == (0, "attempt_id\n")


def test_sql_says_what_is_wrong_and_what_is_missing(run: Run) -> None:
    code, out, err = run("sql", "SELECT * FROM attemts")
    assert (code, out) == (2, "")
    assert err.startswith("error: Unknown table expression identifier 'attemts'")
    code, out, err = run("sql", "DROP TABLE leases", "--json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "invalid_query"
    code, out, err = run("sql", "SELECT number FROM system.numbers", "--max-rows", "2")
    assert (code, out.split()) == (0, ["number", "0", "1"])
    assert "only the first 2 rows" in err


def test_a_request_is_explained(run: Run) -> None:
    code, out, _ = run("explain", "req_2")
    assert code == 0
    assert "attempt 0 on by-hour: ok" in out
    assert "cost: 0.001000000000000000 USD" in out
    assert "price prices.csv:2: 3.6 USD per hour" in out
    assert "rule: each instant of the lease is shared" in out
    code, out, _ = run("explain", "req_3", "--json")
    assert json.loads(out)["attempts"][0]["cost"] is None
    code, _, err = run("explain", "nosuch")
    assert code == 2
    assert "hint: take one from" in err


def test_bad_arguments(run: Run, tmp_path: Path, home: Path) -> None:
    code, _, err = run("report", "--since", "yesterday")
    assert (code, "neither a span nor a date" in err) == (2, True)
    code, _, err = run("report", at=tmp_path / "nowhere")
    assert (code, "no such directory" in err) == (2, True)
    (home / "prices.csv").write_text(SHEET + "by-hour,hour,,-1,USD\n", encoding="utf-8")
    code, _, err = run("report")
    assert code == 2
    assert "prices.csv:5: column 'price' is '-1'" in err


def test_the_home_s_own_configuration_names_price_keys(run: Run, home: Path) -> None:
    (home / "fungible.toml").write_text(
        'home = "."\n[backend.elsewhere]\nkind = "null"\nprice = "by-token"\n', encoding="utf-8"
    )
    _, out, _ = run("report", "--by", "backend", "--json")
    rows = {row["name"]: row["cost"] for row in json.loads(out)["rows"]}
    assert rows["elsewhere"] == "0.002000000000000000"


def test_numbers_for_people() -> None:
    shown = [money(Decimal(text)) for text in ("0", "1234.5678", "0.5", "0.000123456", "1E-18")]
    assert shown == ["0.00", "1234.57", "0.5000", "0.0001235", "0.000000000000000001000"]
    assert money(None) == "unpriced"
    assert [cell(value) for value in (None, "a\nb", {"k": Decimal("1.0")}, [1], 1.5)] == [
        "NULL",
        "a\\nb",
        '{"k":"1.0"}',
        "[1]",
        "1.5",
    ]


def test_since() -> None:
    now = 1_790_000_000 * S
    assert parse_since("", now) == 0
    assert parse_since("90s", now) == now - 90 * S
    assert parse_since("2w", now) == now - 14 * 86_400 * S
    assert parse_since("1970-01-02", now) == 86_400 * S
    assert parse_since("1970-01-02T02:00:00+02:00", now) == 86_400 * S
    for text in ("1", "h", "-1h", "1.5h", "2026-13-01"):
        with pytest.raises(InputError):
            parse_since(text, now)
