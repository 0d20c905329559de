"""Exchange rates into the ledger: a table of day, base, quote and rate, or the ECB's own file."""

import csv
import io
import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

from fungible.contract.streams import RateFact
from fungible.errors import ConfigError
from fungible.ingest.intake import Intake, digest_of
from fungible.ledger.sheet_cells import Columns, RawRow, csv_rows, read_text
from fungible.ledger.sheets import CURRENCY, read_currency

COLUMNS = Columns(
    known=("day", "base", "quote", "rate", "source"), required=("day", "base", "quote", "rate")
)
_RATE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,18})?")


def read_rates(path: Path, known_ns: int) -> list[RateFact]:
    """The rates of a file, whole or not at all.

    Two forms are read: `day,base,quote,rate[,source]`, 1 `base` being `rate` `quote`; and the
    reference rates of the European Central Bank (`eurofxref-hist.csv`): `Date`, then a column
    per currency, with `N/A` or nothing where there is none.

    Raises:
        ConfigError: Something is wrong; names the line and the column.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    if first.split(",")[0].strip() == "Date":
        facts = list(_ecb(path, text, known_ns))
    else:
        facts = [_fact(raw, path, known_ns) for raw in csv_rows(path, text, COLUMNS)]
    if not facts:
        raise ConfigError(f"{path}: no rate in it")
    seen: dict[tuple[str, str, date], RateFact] = {}
    for fact in facts:
        other = seen.setdefault((fact.base, fact.quote, fact.day), fact)
        if other.rate != fact.rate:
            raise ConfigError(
                f"{fact.source}: another rate of {fact.base}/{fact.quote} for {fact.day} than in"
                f" {other.source}"
            )
    return list(seen.values())


def rates_digest(facts: list[RateFact]) -> str:
    """Identity of a file's rates, whatever their order."""
    return digest_of(sorted([f.base, f.quote, str(f.day), f"{f.rate:f}"] for f in facts))


def take_rates(intake: Intake, facts: list[RateFact]) -> None:
    """Put rates into the spool."""
    for fact in facts:
        intake.take(fact)


def _fact(raw: RawRow, path: Path, known_ns: int) -> RateFact:
    base, quote = read_currency(raw, "base"), read_currency(raw, "quote")
    if base == quote:
        raise ConfigError(f"{raw.at('quote')}: column 'quote' is the base itself")
    return RateFact(
        base=base,
        quote=quote,
        day=_day(raw.at("day"), "day", raw.get("day")),
        rate=_rate(raw.at("rate"), "rate", raw.get("rate")),
        known_ns=known_ns,
        source=raw.get("source") or f"{path.name}:{raw.line}",
    )


def _ecb(path: Path, text: str, known_ns: int) -> Iterator[RateFact]:
    reader = csv.reader(io.StringIO(text, newline=""))
    names = [name.strip() for name in next(reader)]
    for name in filter(None, names[1:]):
        if not CURRENCY.fullmatch(name):
            raise ConfigError(f"{path}:1: column {name!r} is no currency")
    for cells in reader:
        if not cells or not cells[0].strip():
            continue
        at = f"{path}:{reader.line_num}"
        day = _day(at, "Date", cells[0].strip())
        for name, cell in zip(names[1:], cells[1:], strict=False):
            rate = cell.strip()
            if name and rate not in ("", "N/A"):
                yield RateFact(
                    base="EUR",
                    quote=name,
                    day=day,
                    rate=_rate(at, name, rate),
                    known_ns=known_ns,
                    source=f"ECB, {path.name}:{reader.line_num}",
                )


def _day(at: str, column: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{at}: column {column!r} is {text!r}, not a day") from error


def _rate(at: str, column: str, text: str) -> Decimal:
    if not _RATE.fullmatch(text) or not Decimal(text):
        raise ConfigError(f"{at}: column {column!r} is {text!r}, not a rate such as 1.0832")
    return Decimal(text)
