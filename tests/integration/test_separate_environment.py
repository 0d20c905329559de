"""clickhouse-connect and dbt of an environment that is not ours, against a running `fungible up`.

By default the environment is the dbt project's, as its lock file has it; with --compat another one,
with the newest clickhouse-connect that dbt-clickhouse takes.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fungible.contract.streams import InvoiceFact, RateFact
from fungible.ledger.spool import SpoolWriter
from fungible.warehouse.environment import (
    OWN_DBT,
    REQUIREMENTS,
    clean_environment,
    find_dbt,
    find_project,
)
from support.control_setup import config_in
from support.processes import chat
from support.up import Up, up

pytest.importorskip("chdb", reason="needs the ledger extra: pip install 'fungible[ledger]'")

SHEET = "key,unit,leaf,price,currency\nref,1M_tokens,input,1,USD\nref,1M_tokens,output,2,USD\n"
CALLS = 8
DAY = date(2026, 10, 5)
DAY_NS = int(datetime(2026, 10, 5, tzinfo=UTC).timestamp()) * 10**9
CLIENT = """
import json, os, sys
import clickhouse_connect
client = clickhouse_connect.get_client(
    host=os.environ["FUNGIBLE_CLICKHOUSE_HOST"], port=int(os.environ["FUNGIBLE_CLICKHOUSE_PORT"]),
    username="fungible", password=os.environ["DBT_ENV_SECRET_FUNGIBLE_PASSWORD"],
    database="fungible",
)
rows = [[str(cell) for cell in row] for row in client.query(sys.argv[1]).result_rows]
print(json.dumps({"rows": rows, "imported_from": clickhouse_connect.__file__}))
"""


class Separate:
    """A virtual environment with dbt and clickhouse-connect, pointed at what runs.

    Args:
        place: The environment.
        folder: Where dbt may write.
        running: What it asks.
    """

    def __init__(self, place: Path, folder: Path, running: Up) -> None:
        self.place = place
        self._folder = folder
        where = urlsplit(running.ready["clickhouse"])
        self._environment = clean_environment() | {
            "FUNGIBLE_CLICKHOUSE_HOST": str(where.hostname),
            "FUNGIBLE_CLICKHOUSE_PORT": str(where.port),
            "DBT_ENV_SECRET_FUNGIBLE_PASSWORD": (running.home / "run/control.token").read_text(),
        }

    def run(self, *command: str) -> str:
        """Standard output of a command of the environment's own."""
        done = subprocess.run(
            [str(self.place / "bin" / command[0]), *command[1:]],
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, sql: str) -> list[list[str]]:
        """The rows of a query, as text, through clickhouse-connect."""
        said: dict[str, Any] = json.loads(self.run("python", "-c", CLIENT, sql))
        assert said["imported_from"].startswith(str(self.place))
        rows: list[list[str]] = said["rows"]
        return rows

    def dbt(self, command: str) -> str:
        """A command of dbt itself, by the project's own profile."""
        project = str(find_project())
        return self.run(
            *("dbt", "--no-version-check", "--log-path", str(self._folder), command),
            *("--project-dir", project, "--profiles-dir", project, "--target", "ledger"),
            *(() if command == "debug" else ("--target-path", str(self._folder / "target"))),
        )


def fresh(place: Path) -> Path:
    """An environment of packages as an index has them today."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    python = str(place / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(place)],
        [uv, "pip", "install", "--quiet", "--python", python, "clickhouse-connect", *REQUIREMENTS],
    ):
        subprocess.run(command, env=clean_environment(), check=True, timeout=200)
    return place


@pytest.fixture(params=["locked", pytest.param("newest", marks=pytest.mark.compat)])
def separate(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Separate]:
    if request.param == "newest":
        place = fresh(tmp_path / "environment")
    else:
        monkeypatch.delenv(OWN_DBT, raising=False)
        place = find_dbt(tmp_path / "environment", find_project(), print).parents[1]
    home, folder = tmp_path / "home", tmp_path / "dbt"
    home.mkdir()
    folder.mkdir()
    (home / "prices.csv").write_text(SHEET, encoding="utf-8")
    with up(home, config_in(home)) as running:
        assert chat(running.ready["gateway"], CALLS) == [200] * CALLS
        yield Separate(place, folder, running)


def billed_in_euros(home: Path) -> None:
    """A bill in euros and the rate of its day, by way of the spool."""
    writer = SpoolWriter(home / "spool", "test")
    writer.write(
        InvoiceFact(
            issuer="ref",
            invoice="inv-1",
            line="1",
            digest="a",
            source="test",
            known_ns=1,
            sku="input",
            start_ns=DAY_NS,
            end_ns=DAY_NS + 86_400 * 10**9,
            billed=Decimal("0.000000000000000003"),
            currency="EUR",
        ),
        RateFact(base="EUR", quote="USD", day=DAY, rate=Decimal("1.5"), known_ns=1, source="test"),
    )
    writer.close()


def test_they_read_and_build_over_the_endpoint(separate: Separate, tmp_path: Path) -> None:
    billed_in_euros(tmp_path / "home")
    here = (
        "SELECT countIf(cost IS NOT NULL), sum(cost), (SELECT count() FROM invoices),"
        " (SELECT count() FROM fx_rates) FROM attempts"
    )
    until = time.monotonic() + 30
    while (row := separate.ask(here)[0])[0] != str(CALLS) or row[2:] != ["1", "1"]:
        assert time.monotonic() < until, row
    assert "All checks passed!" in separate.dbt("debug")
    assert "Completed successfully" in separate.dbt("run")
    spent = separate.ask("SELECT sum(cost), sum(attempts) FROM fungible_marts.cost_by_customer")
    assert spent == [[row[1], str(CALLS)]]
    # Nobody said which currency to report in: it is that of what was priced.
    billed = "SELECT currency, billed FROM fungible_marts.reconciliation WHERE issuer = 'ref'"
    assert separate.ask(f"{billed} AND billed IS NOT NULL") == [["USD", "4E-18"]]
