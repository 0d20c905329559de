"""Writes the month's files, and the truth beside them."""

import csv
import io
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fungible.world.calls import DAY_NS, DAYS, START_NS, Call, calls
from fungible.world.contracts import deployment_rows, invoice_rows, machines, price_rows, rate_rows
from fungible.world.telemetry import envelope, logged, spans
from fungible.world.truth import Truth, day_of, truth_of
from fungible.world.workbook import write_workbook

CALLS = 2_000
SEED = 20261001
SPANS_A_LINE = 50


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Where the files are, by the command that takes them, and the truth about them."""

    folder: Path
    prices: list[Path]
    rates: list[Path]
    infra: list[Path]
    responses: list[Path]
    traces: list[Path]
    invoices: list[Path]
    truth: Truth


def write_world(
    folder: Path, *, count: int = CALLS, seed: int = SEED, order: int | None = None
) -> World:
    """Make the month under `folder`.

    Args:
        folder: Made when missing; files in it are overwritten.
        count: About how many calls.
        seed: Of the truth. The same seed and count give the same month.
        order: Of the lines in the files: by time, or shuffled by this number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = calls(count, seed)
    shuffled = _shuffler(order)
    truth = truth_of(made)
    write_workbook(folder / "contracts.xlsx", "Prices", price_rows())
    _write_csv(folder / "rates.csv", rate_rows())
    _write_json(folder / "machines.json", machines())
    _write_csv(folder / "deployments.csv", deployment_rows())
    (folder / "truth.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(truth, order="sorted"), indent=2)
    )
    invoices = []
    for name, rows in invoice_rows(made).items():
        invoices.append(folder / "invoices" / name)
        _write_csv(invoices[-1], rows)
    return World(
        folder=folder,
        prices=[folder / "contracts.xlsx"],
        rates=[folder / "rates.csv"],
        infra=[folder / "deployments.csv", folder / "machines.json"],
        responses=_by_day(folder / "responses", made, logged, shuffled),
        traces=_by_day(folder / "traces", made, spans, shuffled, pack=_packed),
        invoices=sorted(invoices),
        truth=truth,
    )


Lines = list[dict[str, Any]]


def _by_day(
    folder: Path,
    made: Iterable[Call],
    records: Callable[[Call], Lines],
    shuffled: Callable[[Lines], Lines],
    pack: Callable[[Lines], Lines] = lambda lines: lines,
) -> list[Path]:
    """One file of JSON lines for each day."""
    days: dict[str, Lines] = {day_of(START_NS + at * DAY_NS).isoformat(): [] for at in range(DAYS)}
    for call in made:
        days[day_of(call.started_ns).isoformat()] += records(call)
    folder.mkdir(exist_ok=True)
    paths = []
    for day, lines in days.items():
        paths.append(folder / f"{day}.jsonl")
        data = msgspec.json.Encoder().encode_lines(pack(shuffled(lines)))
        paths[-1].write_bytes(data)
    return paths


def _packed(found: Lines) -> Lines:
    return [envelope(found[at : at + SPANS_A_LINE]) for at in range(0, len(found), SPANS_A_LINE)]


def _shuffler(order: int | None) -> Callable[[Lines], Lines]:
    if order is None:
        return lambda lines: lines
    chance = random.Random(order)  # noqa: S311  # an order, not a secret
    return lambda lines: chance.sample(lines, len(lines))


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def _write_json(path: Path, body: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(body), indent=2))
