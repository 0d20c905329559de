"""Tables on a terminal, aligned columns elsewhere, and numbers as people read them."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import click
import msgspec
from rich.console import Console
from rich.table import Table

_DIGITS = 4


def money(amount: Decimal | None) -> str:
    """An amount rounded for the eye: two decimals, or four significant digits if smaller."""
    if amount is None:
        return "unpriced"
    if amount == 0:
        return "0.00"
    places = max(2, _DIGITS - 1 - amount.adjusted())
    rounded = amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
    return f"{rounded:f}"


def moment(ns: int) -> str:
    """Nanoseconds since the epoch as UTC to the millisecond."""
    at = datetime.fromtimestamp(ns // 1_000_000_000, tz=UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{ns // 1_000_000 % 1000:03d}"


def cell(value: object) -> str:
    """One value of a result on one line."""
    if value is None:
        return "NULL"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return str(value)
    if isinstance(value, dict | list | tuple):
        return msgspec.json.encode(plain(value)).decode()
    return str(value).replace("\t", "\\t").replace("\n", "\\n")


def plain(value: object) -> object:
    """The same with decimals as plain strings, never `0E-18`; for JSON."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return value


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    click.echo(msgspec.json.encode(plain(value)).decode())


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    right: Sequence[str] = (),
) -> None:
    """Rows of text on stdout; `right` names the columns that are aligned to the right."""
    if not sys.stdout.isatty():
        _print_aligned(columns, rows, right)
        return
    shown = Table(title=title or None, title_justify="left", header_style="bold")
    for name in columns:
        shown.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    Console().print(shown, markup=False)


def _print_aligned(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]
) -> None:
    widths = [
        max(len(columns[at]), *(len(row[at]) for row in rows), 0) for at in range(len(columns))
    ]
    for row in (columns, *rows):
        parts = [
            text.rjust(width) if name in right else text.ljust(width)
            for text, width, name in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())
