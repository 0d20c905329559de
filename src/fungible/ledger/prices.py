"""The price sheet: what a backend's time or tokens cost, and when that was true.

A sheet is a CSV file with a header, or a YAML list of mappings, with these columns:

========== ==================================================================
key        a backend's name, or the `price` key that its settings name
unit       `hour` (of the whole backend) or `1M_tokens`
leaf       for tokens: `input`, `output`, or one leaf such as `in_cache_read`
price      decimal, up to 12 digits after the point: `0.90`
currency   ISO 4217, the same in the whole sheet
valid_from first moment, ISO date or time (UTC); empty is always
valid_to   first moment it no longer holds; empty is until further notice
source     where the number comes from, such as a contract or a page
note       free text
========== ==================================================================

`input` and `output` price every leaf under them that has no row of its own.
"""

import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from fungible.config import Config
from fungible.errors import ConfigError

INPUT_LEAVES = ("in_uncached", "in_cache_read", "in_cache_write")
OUTPUT_LEAVES = ("out_visible", "out_reasoning")
LEAVES = (*INPUT_LEAVES, *OUTPUT_LEAVES)
PARENT = dict.fromkeys(INPUT_LEAVES, "input") | dict.fromkeys(OUTPUT_LEAVES, "output")
COLUMNS = ("key", "unit", "leaf", "price", "currency", "valid_from", "valid_to", "source", "note")
REQUIRED = ("key", "unit", "price", "currency")
FOREVER = (1 << 63) - 1
# Twelve digits make tokens × price / 10^6 exact at the ledger's scale of 18.
_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Unit = Literal["hour", "1M_tokens"]


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the sheet. It holds in `[from_ns, to_ns)`; `where` is `file:line`."""

    key: str
    unit: Unit
    leaf: str
    price: Decimal
    currency: str
    from_ns: int
    to_ns: int
    source: str = ""
    note: str = ""
    where: str = ""

    def covers(self, at_ns: int) -> bool:
        """Whether the price held at that moment."""
        return self.from_ns <= at_ns < self.to_ns


class IdlePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who reserved how much of a backend, and how much of it is kept free; shares of 0 to 1."""

    reserved_by: str = ""
    reserved_share: float = 1.0
    headroom: float = 0.0


class PriceBook:
    """All prices that we know, looked up by backend.

    Args:
        rows: Checked rows, see `load_prices`.
        keys: Backend -> price key, for backends whose key is not their own name.
        idle: Backend -> who answers for its idle time, where that is not all the platform.
    """

    def __init__(
        self,
        rows: tuple[PriceRow, ...] = (),
        keys: Mapping[str, str] | None = None,
        idle: Mapping[str, IdlePolicy] | None = None,
    ):
        self.rows = rows
        self.idle = dict(idle or {})
        self.keys = dict(keys or {})
        self._by_key: dict[str, list[PriceRow]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row.from_ns):
            self._by_key[row.key].append(row)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over everything that decides an amount."""
        facts = [
            (row.key, row.unit, row.leaf, str(row.price), row.currency, row.from_ns, row.to_ns)
            for row in self.rows
        ]
        told: list[Any] = [sorted(facts), sorted(self.keys.items())]
        if self.idle:
            told.append(sorted(self.idle.items()))
        data = msgspec.json.encode(told)
        return hashlib.sha256(data).hexdigest()[:16]

    def of_backend(self, backend: str) -> list[PriceRow]:
        """Every row of a backend, oldest first."""
        return self._by_key.get(self.keys.get(backend) or backend, [])

    def hourly(self, backend: str) -> list[PriceRow]:
        """Prices per hour, oldest first; they do not overlap."""
        return [row for row in self.of_backend(backend) if row.unit == "hour"]

    def tokens(self, backend: str, at_ns: int) -> dict[str, PriceRow]:
        """The price of each leaf at that moment; leaves without a price are left out."""
        found = {
            row.leaf: row
            for row in self.of_backend(backend)
            if row.unit == "1M_tokens" and row.covers(at_ns)
        }
        prices = {leaf: found.get(leaf) or found.get(PARENT[leaf]) for leaf in LEAVES}
        return {leaf: row for leaf, row in prices.items() if row is not None}


def load_book(config: Config) -> PriceBook:
    """The prices of a configuration: its sheet, or `<home>/prices.csv`, or none at all."""
    path = Path(config.ledger.prices) if config.ledger.prices else None
    default = config.home_path() / "prices.csv"
    if path is None and default.exists():
        path = default
    keys = {name: backend.price for name, backend in config.backend.items() if backend.price}
    rows = load_prices(path).rows if path else ()
    idle = {
        name: IdlePolicy(
            reserved_by=backend.reserved_by,
            reserved_share=backend.reserved_share,
            headroom=backend.headroom,
        )
        for name, backend in config.backend.items()
        if backend.reserved_by or backend.headroom
    }
    return PriceBook(rows, keys, idle)


def load_prices(path: Path) -> PriceBook:
    """Read and check a sheet.

    Raises:
        ConfigError: Something is wrong; names the file, the line and the column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such price sheet", hint="check ledger.prices") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    cells = _yaml_rows(path, text) if path.suffix in (".yaml", ".yml") else _csv_rows(path, text)
    rows = tuple(_row(f"{path}:{line}", f"{path.name}:{line}", raw) for line, raw in cells)
    _check_sheet(path, rows)
    return PriceBook(rows)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells) or cells[0].lstrip().startswith("#"):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_columns(f"{path}:{line}", header)
                continue
            if len(cells) > len(header):
                raise ConfigError(
                    f"{path}:{line}: {len(cells)} cells, but the header has {len(header)}",
                    hint='put a cell that holds a comma in "double quotes"',
                )
            yield line, dict(zip(header, map(str.strip, cells), strict=False))
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error
    if not header:
        raise ConfigError(f"{path}:1: no header", hint=f"the first line is {','.join(COLUMNS)}")


def _yaml_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(root, yaml.SequenceNode):
        raise ConfigError(f"{path}:1: a price sheet in YAML is a list of mappings")
    for node in root.value:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}:{line}: not a mapping of column to value")
        raw = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
                raise ConfigError(f"{path}:{key.start_mark.line + 1}: values must be single")
            null = value.tag == "tag:yaml.org,2002:null"
            raw[key.value] = "" if null else value.value.strip()
        _check_columns(f"{path}:{line}", list(raw))
        yield line, raw


def _check_columns(at: str, names: list[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise ConfigError(f"{at}: unknown column {name!r}", hint=f"known: {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise ConfigError(f"{at}: column {name!r} is there twice")
    for name in REQUIRED:
        if name not in names:
            raise ConfigError(f"{at}: column {name!r} is missing")


def _row(at: str, where: str, raw: dict[str, str]) -> PriceRow:
    for name in REQUIRED:
        if not raw.get(name):
            raise ConfigError(f"{at}: column {name!r} is empty")
    start = _moment(at, "valid_from", raw.get("valid_from", ""), 0)
    end = _moment(at, "valid_to", raw.get("valid_to", ""), FOREVER)
    if start >= end:
        raise ConfigError(f"{at}: column 'valid_to' is not after 'valid_from'")
    if not _CURRENCY.fullmatch(raw["currency"]):
        raise ConfigError(
            f"{at}: column 'currency' is {raw['currency']!r}, not an ISO 4217 code such as USD"
        )
    return PriceRow(
        key=raw["key"],
        unit=_unit(at, raw["unit"]),
        leaf=_leaf(at, raw["unit"], raw.get("leaf", "")),
        price=_price(at, raw["price"]),
        currency=raw["currency"],
        from_ns=start,
        to_ns=end,
        source=raw.get("source", ""),
        note=raw.get("note", ""),
        where=where,
    )


def _unit(at: str, text: str) -> Unit:
    if text == "hour":
        return "hour"
    if text == "1M_tokens":
        return "1M_tokens"
    raise ConfigError(f"{at}: column 'unit' is {text!r}, not hour or 1M_tokens")


def _leaf(at: str, unit: str, text: str) -> str:
    if unit == "hour":
        if text:
            raise ConfigError(f"{at}: column 'leaf' must be empty for a price per hour")
        return ""
    known = ("input", "output", *LEAVES)
    if text not in known:
        raise ConfigError(f"{at}: column 'leaf' is {text!r}", hint=f"one of {', '.join(known)}")
    return text


def _price(at: str, text: str) -> Decimal:
    if not _PRICE.fullmatch(text):
        raise ConfigError(
            f"{at}: column 'price' is {text!r}, not a plain decimal such as 0.90",
            hint="no sign, no exponent, at most 9 digits before and 12 after the point",
        )
    return Decimal(text)


def _moment(at: str, column: str, text: str, empty: int) -> int:
    if not text:
        return empty
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{at}: column {column!r} is {text!r}, not an ISO date or time such as 2026-01-31"
        ) from error
    delta = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    ns = ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000
    return min(max(ns, 0), FOREVER)


def _check_sheet(path: Path, rows: tuple[PriceRow, ...]) -> None:
    """One currency; per key and leaf no two prices at once; never hours and tokens at once."""
    by_leaf: dict[tuple[str, str, str], list[PriceRow]] = defaultdict(list)
    by_key: dict[str, list[PriceRow]] = defaultdict(list)
    for row in rows:
        if row.currency != rows[0].currency:
            raise ConfigError(
                f"{path}: {row.where}: column 'currency' is {row.currency}, but {rows[0].where}"
                f" says {rows[0].currency}",
                hint="convert the sheet to one currency; exchange rates are not applied",
            )
        by_leaf[row.key, row.unit, row.leaf].append(row)
        by_key[row.key].append(row)
    for (key, _, leaf), group in by_leaf.items():
        for first, second in pairwise(sorted(group, key=lambda row: row.from_ns)):
            if second.from_ns < first.to_ns:
                what = f"{key} {leaf}".strip()
                raise ConfigError(
                    f"{path}: {second.where}: column 'valid_from': the price of {what} overlaps"
                    f" the one in {first.where}",
                    hint="end the earlier price where the later one begins",
                )
    for key, group in by_key.items():
        _check_one_unit(path, key, group)


def _check_one_unit(path: Path, key: str, group: list[PriceRow]) -> None:
    hours = [row for row in group if row.unit == "hour"]
    tokens = [row for row in group if row.unit == "1M_tokens"]
    for hour in hours:
        for token in tokens:
            if hour.from_ns < token.to_ns and token.from_ns < hour.to_ns:
                raise ConfigError(
                    f"{path}: {token.where}: column 'unit': {key} has a price per hour in"
                    f" {hour.where} at the same time",
                    hint="a backend is paid by the hour or by the token, not both",
                )
