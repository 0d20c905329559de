"""A synthetic month through the public import commands, and the truth beside what they made."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from fungible.config import load_config
from fungible.errors import StartupError
from fungible.ledger.access import Access, open_access
from fungible.quickstart.progress import Stages
from fungible.world.calls import SERVICES
from fungible.world.truth import Sum, Truth
from fungible.world.write import World, write_world

DIMENSIONS = ("customer", "feature", "owner", "backend", "day")
_HEADER = """\
# Written by `fungible quickstart --world`: a synthetic month, nothing in it is real.
home = "."

[ledger]
currency = "USD"
"""
_BACKEND = """
[backend.{name}]
kind = "null"  # nothing is asked here; what was asked elsewhere is imported
model = "{model}"
accelerator = "{accelerator}"
"""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the comparison: what the month cost, and what the ledger says."""

    dimension: str
    name: str
    attempts: int
    unpriced: int
    truth: Decimal
    ledger: Decimal
    same: bool


class WorldOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `simulated` is always true: the month never happened."""

    simulated: bool
    home: str
    files: str
    attempts: int
    unpriced: int
    exact: bool
    rows: list[Compared]


def run_world(home: Path, *, count: int, seed: int, order: int | None = None) -> WorldOutcome:
    """Write the month, import it by the commands that anybody would use, and compare.

    Raises:
        StartupError: A command failed; carries what it wrote.
    """
    stages = Stages()
    config = write_config(home)
    with stages.stage("Making a month of calls, contracts and invoices (simulated)") as stage:
        world = write_world(home / "world", count=count, seed=seed, order=order)
        stage.note(f"{world.truth.attempts} calls in {world.folder}")
    for stream, arguments in import_commands(world):
        with stages.stage(f"fungible ingest {stream}") as stage:
            stage.note(taken(ingest([stream, *arguments], config)))
    access = open_access(load_config(config))
    try:
        rows = compare(access, world.truth)
    finally:
        access.close()
    return WorldOutcome(
        simulated=True,
        home=str(home),
        files=str(world.folder),
        attempts=world.truth.attempts,
        unpriced=world.truth.unpriced,
        exact=all(row.same for row in rows),
        rows=rows,
    )


def write_config(home: Path) -> Path:
    """The configuration that the month's files are imported under."""
    home.mkdir(parents=True, exist_ok=True)
    config = home / "fungible.toml"
    config.write_text(_configuration(), encoding="utf-8")
    return config


def import_commands(world: World) -> list[tuple[str, list[str]]]:
    """What takes the files in: stream and arguments of `fungible ingest`."""
    streams = {
        "prices": world.prices,
        "rates": world.rates,
        "infra": world.infra,
        "responses": world.responses,
        "traces": world.traces,
        "invoice": world.invoices,
    }
    return [(stream, [str(path) for path in paths]) for stream, paths in streams.items()]


def compare(access: Access, truth: Truth) -> list[Compared]:
    """The truth and the ledger by each dimension, idle time last."""
    found = []
    for dimension in DIMENSIONS:
        expected: dict[str, Sum] = getattr(truth, f"by_{dimension}")
        column = "toString(toDate(started_at))" if dimension == "day" else dimension
        rows = access.query(
            f"SELECT {column} AS name, count() AS attempts, countIf(a.cost IS NULL) AS unpriced,"  # noqa: S608
            " sum(a.cost) AS cost FROM attempts AS a GROUP BY name"
        ).dicts()
        said = {str(row["name"]): row for row in rows}
        found += [
            _compared(dimension, name, expected.get(name, Sum()), said.get(name))
            for name in sorted(expected.keys() | said.keys())
        ]
    idle = access.query("SELECT sum(amount) AS cost FROM idle").dicts()[0]
    row = {"attempts": 0, "unpriced": 0, "cost": idle["cost"]}
    return [*found, _compared("idle", "fleet", Sum(dollars=truth.idle), row)]


def world_table(outcome: WorldOutcome) -> Table:
    """The comparison as a table; rows that differ are marked."""
    table = Table(
        title=f"A synthetic month (simulated): {outcome.attempts} calls,"
        f" {outcome.unpriced} that nobody recorded the tokens of",
        title_justify="left",
    )
    for heading in ("by", "", "calls", "unpriced", "truth, USD", "ledger, USD", ""):
        numeric = heading not in ("by", "")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in outcome.rows:
        if row.dimension == "day" and row.same:
            continue
        table.add_row(
            row.dimension,
            row.name or "(unattributed)",
            str(row.attempts),
            str(row.unpriced),
            f"{row.truth:.18f}",
            f"{row.ledger:.18f}",
            "" if row.same else "DIFFERS",
        )
    return table


def _compared(dimension: str, name: str, truth: Sum, row: dict[str, Any] | None) -> Compared:
    attempts, unpriced, cost = 0, 0, Decimal(0)
    if row is not None:
        attempts, unpriced = int(row["attempts"]), int(row["unpriced"])
        cost = Decimal(row["cost"] or 0)
    return Compared(
        dimension=dimension,
        name=name,
        attempts=attempts,
        unpriced=unpriced,
        truth=truth.dollars,
        ledger=cost,
        same=(attempts, unpriced, cost) == (truth.attempts, truth.unpriced, truth.dollars),
    )


def _configuration() -> str:
    backends = (
        _BACKEND.format(
            name=service.name, model=service.model, accelerator=service.accelerator
        ).replace('accelerator = ""\n', "")
        for service in SERVICES
    )
    return _HEADER + "".join(backends)


def ingest(arguments: list[str], config: Path) -> Any:  # noqa: ANN401  # any command's receipt
    """Run `fungible ingest` as a process of its own; what it printed.

    Raises:
        StartupError: It failed; carries what it wrote.
    """
    command = [sys.executable, "-m", "fungible", "ingest", *arguments]
    done = subprocess.run(
        [*command, "--config", str(config), "--json"], capture_output=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise StartupError(f"fungible ingest {arguments[0]} failed: {said[-1500:]}")
    return msgspec.json.decode(done.stdout)


def taken(receipt: Any) -> str:  # noqa: ANN401  # one receipt, or those of several files
    """What a command took, in words."""
    if isinstance(receipt, dict) and "files" in receipt:
        receipt = [each["receipt"] for each in receipt["files"]]
    receipts = receipt if isinstance(receipt, list) else [receipt]
    rows = sum(int(each["rows"]) for each in receipts)
    rejected = sum(int(each["rejected"]) for each in receipts)
    return f"{rows} rows" + (f", {rejected} rejected" if rejected else "")
