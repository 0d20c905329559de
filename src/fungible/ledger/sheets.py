"""Price sheets: CSV, YAML or XLSX with a header, read whole or refused with the cell at fault.

============ =====================================================================
key          a backend's name, the `price` key that its settings name, or `issuer/model`
unit         `hour` (of the whole backend) or `1M_tokens`
leaf         for tokens: `input`, `output`, or one leaf such as `in_cache_read`
price        decimal, up to 12 digits after the point: `0.90`
currency     ISO 4217
valid_from   first moment, ISO date or time (UTC); empty is always
valid_to     first moment it no longer holds; empty is until further notice
basis        `contracted` (empty too): what we pay; `list`: the public price
issuer, sku  as the invoice names them; empty: the key, and the leaf
tier         empty: the standard tier; `*`: any; else as the answer states it
region       empty: everywhere
context_from least input tokens of the call; empty: 0
context_to   one more than the most; empty: no bound
contract     which contract says so
source       where the number comes from, such as a page
note         free text
============ =====================================================================
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from fungible.config import Config
from fungible.errors import ConfigError
from fungible.ledger.prices import (
    FOREVER,
    LEAVES,
    IdlePolicy,
    PriceBasis,
    PriceBook,
    PriceRow,
    Unit,
    tier_of,
)
from fungible.ledger.sheet_cells import Columns, RawRow, read_rows

COLUMNS = Columns(
    known=(
        *("key", "unit", "leaf", "price", "currency", "valid_from", "valid_to", "basis"),
        *("issuer", "sku", "tier", "region", "context_from", "context_to", "contract"),
        *("source", "note"),
    ),
    required=("key", "unit", "price", "currency"),
)
# Twelve digits make tokens × price / 10^6 exact at the ledger's scale of 18.
PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?")
CURRENCY = re.compile(r"[A-Z]{3}")
_TOKENS = re.compile(r"[0-9]{1,12}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def load_book(config: Config) -> PriceBook:
    """The prices of a configuration: its sheet, or `<home>/prices.csv`, or none at all.

    What was imported is not in it: that is the ledger's, see `known_prices.py`.
    """
    return book_of(config, configured_rows(config))


def book_of(config: Config, rows: tuple[PriceRow, ...]) -> PriceBook:
    """A book of rows with the configuration's keys and currency.

    Raises:
        ConfigError: There are several currencies, and none to report in.
    """
    keys = {name: backend.price for name, backend in config.backend.items() if backend.price}
    if not config.ledger.currency:
        check_one_currency(rows)
    idle = {
        name: IdlePolicy(
            reserved_by=backend.reserved_by,
            reserved_share=backend.reserved_share,
            headroom=backend.headroom,
        )
        for name, backend in config.backend.items()
        if backend.reserved_by or backend.headroom
    }
    return PriceBook(rows, keys, idle, currency=config.ledger.currency)


def configured_rows(config: Config) -> tuple[PriceRow, ...]:
    """The rows of the sheet that the configuration names, if any."""
    path = Path(config.ledger.prices) if config.ledger.prices else None
    default = config.home_path() / "prices.csv"
    if path is None and default.exists():
        path = default
    return read_sheet(path) if path else ()


def load_prices(path: Path) -> PriceBook:
    """A book of one sheet in one currency; see `read_sheet`."""
    rows = read_sheet(path)
    check_one_currency(rows)
    return PriceBook(rows)


def read_sheet(path: Path, worksheet: str = "") -> tuple[PriceRow, ...]:
    """Read and check a sheet.

    Raises:
        ConfigError: Something is wrong; names the file, the line or cell, and the column.
    """
    rows = tuple(_row(raw) for raw in read_rows(path, COLUMNS, worksheet))
    check_rows(rows)
    return rows


def check_rows(rows: Sequence[PriceRow]) -> None:
    """No two prices for the same call at once; never hours and tokens at once.

    Raises:
        ConfigError: Names both places.
    """
    by_call: dict[tuple[str, ...], list[PriceRow]] = defaultdict(list)
    by_key: dict[tuple[str, str], list[PriceRow]] = defaultdict(list)
    for row in rows:
        key = (row.key, row.unit, row.leaf, row.basis, row.tier, row.region)
        by_call[key].append(row)
        by_key[row.key, row.basis].append(row)
    for group in by_call.values():
        _check_disjoint(group)
    for (name, _), group in by_key.items():
        _check_one_unit(name, group)


def check_one_currency(rows: Iterable[PriceRow]) -> None:
    """One currency in all rows.

    Raises:
        ConfigError: Names the first row in another one.
    """
    first: PriceRow | None = None
    for row in rows:
        first = first or row
        if row.currency != first.currency:
            raise ConfigError(
                f"{row.where}: column 'currency' is {row.currency}, but {first.where}"
                f" says {first.currency}",
                hint='set ledger.currency, such as "USD", and import exchange rates with'
                " `fungible ingest rates`",
            )


def _row(raw: RawRow) -> PriceRow:
    for name in COLUMNS.required:
        if not raw.get(name):
            raise ConfigError(f"{raw.at(name)}: column {name!r} is empty")
    start, end = read_moment(raw, "valid_from", 0), read_moment(raw, "valid_to", FOREVER)
    if start >= end:
        raise ConfigError(f"{raw.at('valid_to')}: column 'valid_to' is not after 'valid_from'")
    unit = _unit(raw)
    least, most = _tokens(raw, "context_from"), _tokens(raw, "context_to")
    if most and least >= most:
        raise ConfigError(f"{raw.at('context_to')}: column 'context_to' is not after the first")
    row = PriceRow(
        key=raw.get("key"),
        unit=unit,
        leaf=_leaf(raw),
        price=_price(raw),
        currency=read_currency(raw, "currency"),
        from_ns=start,
        to_ns=end,
        source=raw.get("source"),
        note=raw.get("note"),
        where=raw.place("price"),
        basis=_basis(raw),
        issuer=raw.get("issuer"),
        sku=raw.get("sku"),
        tier=tier_of(raw.get("tier")),
        region=raw.get("region"),
        context_from=least,
        context_to=most,
        contract=raw.get("contract"),
    )
    for name in ("tier", "region", "context_from", "context_to"):
        if unit == "hour" and raw.get(name):
            raise ConfigError(f"{raw.at(name)}: column {name!r} must be empty for a price per hour")
    return row


def _unit(raw: RawRow) -> Unit:
    text = raw.get("unit")
    if text == "hour":
        return "hour"
    if text == "1M_tokens":
        return "1M_tokens"
    raise ConfigError(f"{raw.at('unit')}: column 'unit' is {text!r}, not hour or 1M_tokens")


def _basis(raw: RawRow) -> PriceBasis:
    text = raw.get("basis")
    if text == "list":
        return "list"
    if text in ("", "contracted"):
        return "contracted"
    raise ConfigError(f"{raw.at('basis')}: column 'basis' is {text!r}, not list or contracted")


def _leaf(raw: RawRow) -> str:
    text = raw.get("leaf")
    if raw.get("unit") == "hour":
        if text:
            raise ConfigError(f"{raw.at('leaf')}: column 'leaf' must be empty for a price per hour")
        return ""
    known = ("input", "output", *LEAVES)
    if text not in known:
        hint = f"one of {', '.join(known)}"
        raise ConfigError(f"{raw.at('leaf')}: column 'leaf' is {text!r}", hint=hint)
    return text


def _price(raw: RawRow) -> Decimal:
    text = raw.get("price")
    if not PRICE.fullmatch(text):
        raise ConfigError(
            f"{raw.at('price')}: column 'price' is {text!r}, not a plain decimal such as 0.90",
            hint="no sign, no exponent, at most 9 digits before and 12 after the point",
        )
    return Decimal(text)


def _tokens(raw: RawRow, column: str) -> int:
    text = raw.get(column)
    if not text:
        return 0
    if not _TOKENS.fullmatch(text):
        raise ConfigError(f"{raw.at(column)}: column {column!r} is {text!r}, not a count of tokens")
    return int(text)


def read_currency(raw: RawRow, column: str) -> str:
    """An ISO 4217 code, or a ConfigError that names the cell."""
    text = raw.get(column)
    if not CURRENCY.fullmatch(text):
        raise ConfigError(
            f"{raw.at(column)}: column {column!r} is {text!r}, not an ISO 4217 code such as USD"
        )
    return text


def read_moment(raw: RawRow, column: str, empty: int) -> int:
    """An ISO date or time (UTC) in ns, `empty` for an empty cell; else a ConfigError."""
    text = raw.get(column)
    if not text:
        return empty
    try:
        return moment_ns(text)
    except ValueError as error:
        raise ConfigError(
            f"{raw.at(column)}: column {column!r} is {text!r}, not an ISO date or time such as"
            " 2026-01-31"
        ) from error


def moment_ns(text: str) -> int:
    """An ISO date or time, UTC unless it says otherwise, in ns, exact; not before 1970.

    Raises:
        ValueError: It is none.
    """
    moment = datetime.fromisoformat(text)
    delta = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    ns = ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000
    return min(max(ns, 0), FOREVER)


def _check_disjoint(group: list[PriceRow]) -> None:
    group.sort(key=lambda row: row.from_ns)
    for at, second in enumerate(group):
        for first in group[:at]:
            bands = _before(first, second) or _before(second, first)
            if second.from_ns < first.to_ns and not bands:
                what = f"{second.key} {second.leaf}".strip()
                raise ConfigError(
                    f"{second.where}: column 'valid_from': the price of {what} overlaps"
                    f" the one in {first.where}",
                    hint="end the earlier price where the later one begins",
                )


def _before(first: PriceRow, second: PriceRow) -> bool:
    """Whether the first's band of contexts ends before the second's."""
    return bool(first.context_to) and first.context_to <= second.context_from


def _check_one_unit(key: str, group: list[PriceRow]) -> None:
    hours = [row for row in group if row.unit == "hour"]
    tokens = [row for row in group if row.unit == "1M_tokens"]
    for hour in hours:
        for token in tokens:
            if hour.from_ns < token.to_ns and token.from_ns < hour.to_ns:
                raise ConfigError(
                    f"{token.where}: column 'unit': {key} has a price per hour in"
                    f" {hour.where} at the same time",
                    hint="a backend is paid by the hour or by the token, not both",
                )
