"""`fungible ingest infra` and `invoice` through the command line, beside the ledger."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INVOICE = """\
issuer,invoice,line,sku,start,end,billed,currency
colo,2026-10,1,rack,2026-10-01,2026-11-01,1200.50,EUR
colo,2026-10,2,rack,2026-10-01,2026-09-01,1,EUR
"""
MACHINES = """\
resource,kind,backend,addresses,started_at,observed_at
i-1,instance,own,a.example,2026-10-01,2026-10-02
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "fungible.toml").write_text('home = "."\n', encoding="utf-8")
    return home


def fungible(home: Path, *arguments: str, code: int = 0) -> Any:
    """A command with --json; its data, or its error body."""
    done = subprocess.run(
        [sys.executable, "-m", "fungible", *arguments, "--home", str(home), "--json"],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1])


def ask(home: Path, query: str) -> list[Any]:
    return list(fungible(home, "cost", "sql", query)["rows"])


def test_machines_and_invoices_are_taken_once(home: Path, tmp_path: Path) -> None:
    invoice, machines = tmp_path / "colo.csv", tmp_path / "machines.csv"
    invoice.write_text(INVOICE, encoding="utf-8")
    machines.write_text(MACHINES, encoding="utf-8")
    (receipt,) = fungible(home, "ingest", "invoice", str(invoice))
    assert (receipt["rows"], receipt["rejected"]) == (1, 1)
    assert "ends" in receipt["reasons"][0]
    (again,) = fungible(home, "ingest", "invoice", str(invoice))
    assert again["rows"] == 0
    fungible(home, "ingest", "invoice", str(invoice), "--again")
    fungible(home, "ingest", "infra", str(machines))
    fungible(home, "ingest", "infra", str(machines), "--again")
    found = ask(
        home,
        "SELECT (SELECT count() FROM invoice_lines FINAL), (SELECT sum(billed) FROM invoices),"
        " (SELECT count() FROM infra FINAL), (SELECT count() FROM rejects FINAL),"
        " (SELECT (any(backend), max(seen_ns) - min(started_ns)) FROM leases FINAL)",
    )
    assert found == [[1, "1200.500000000000000000", 1, 1, ["own", 86_400_000_000_000]]]


def test_a_wrong_file_is_named_and_the_others_are_taken(home: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text(INVOICE, encoding="utf-8")
    bad.write_text("a,b\n", encoding="utf-8")
    error = fungible(home, "ingest", "invoice", str(bad), str(good), code=2)["error"]
    assert str(bad) in error["message"]
    assert ask(home, "SELECT count() FROM invoices") == [[1]]
