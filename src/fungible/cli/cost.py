"""`fungible cost`: what tokens and requests cost."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import get_args

import click

from fungible.cli.cost_explained import print_explanation
from fungible.cli.lazy import LazyGroup, Table
from fungible.cli.months import moment_of, month_span
from fungible.cli.options import common_options, locate_config
from fungible.cli.tables import cell, money, print_json, print_table
from fungible.config import DEFAULT_HOME, Config, load_config
from fungible.contract.inference import Kind
from fungible.errors import ConfigError, InputError
from fungible.ledger.access import Access, open_access
from fungible.ledger.explain import explain
from fungible.ledger.known_prices import book_as_known
from fungible.ledger.prices import FOREVER
from fungible.ledger.queries import DIMENSIONS, CostReport, CostRow, Dimension, IdleRow, cost_report

_SPAN = re.compile(r"(\d+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SECOND_NS = 1_000_000_000


COMMANDS: Table = {
    "report": ("fungible.cli.cost", "report", "Requests, tokens and money by one dimension."),
    "explain": ("fungible.cli.cost", "explain_", "Why one request costs what it costs."),
    "reconcile": ("fungible.cli.reconcile", "reconcile", "What was billed against what we priced."),
    "sql": ("fungible.cli.cost", "sql", "Ask the ledger in SQL."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def cost() -> None:
    """What tokens and requests cost.

    Works beside a running `fungible up`, and when nothing runs.
    """


@click.command()
@click.option("--by", type=click.Choice(DIMENSIONS), default="model", show_default=True)
@click.option("--since", default="", help="A span such as 1h or 7d, or an ISO date (UTC).")
@click.option("--month", default="", help="Instead of --since: a month such as 2026-10 (UTC).")
@click.option("--known-at", default="", help="As it was known at an ISO time (UTC).")
@click.option(
    "--kind",
    type=click.Choice([*get_args(Kind), "all"]),
    default="serve",
    show_default=True,
    help="Which attempts count; idle time is always shown.",
)
@common_options
def report(
    *,
    by: Dimension,
    since: str,
    month: str,
    known_at: str,
    kind: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Requests, tokens and money by one dimension, with idle and unpriced in sight."""
    if since and month:
        raise InputError("--since or --month, not both")
    since_ns, until_ns = month_span(month)
    if since:
        since_ns = parse_since(since, time.time_ns())
    known_ns = moment_of(known_at) if known_at else FOREVER
    span = {"since_ns": since_ns, "until_ns": until_ns, "known_ns": known_ns}
    with opened(find_config(home, config_path)) as access:
        shown = cost_report(access, by, kind=kind, **span)
    if as_json:
        print_json(shown)
    else:
        _print_report(shown)


@click.command()
@click.argument("query")
@click.option("--max-rows", default=10_000, show_default=True, type=click.IntRange(min=1))
@common_options
def sql(
    *, query: str, max_rows: int, home: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Ask the ledger in SQL (ClickHouse), read-only. Start with: SELECT * FROM attempts."""
    with opened(find_config(home, config_path)) as access:
        rows = access.query(query, readonly=True, max_rows=max_rows)
    if as_json:
        print_json(rows)
    else:
        numbers = [
            name
            for name, kind in zip(rows.columns, rows.types, strict=True)
            if re.search(r"Int|Float|Decimal", kind) and "(String" not in kind
        ]
        print_table(rows.columns, [list(map(cell, row)) for row in rows.rows], right=numbers)
    if rows.truncated:
        click.echo(f"only the first {max_rows} rows are shown: add a LIMIT", err=True)


@click.command("explain")
@click.argument("request_id")
@common_options
def explain_(
    *, request_id: str, home: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Why one request costs what it costs."""
    config = find_config(home, config_path)
    with opened(config) as access:
        why = explain(access, book_as_known(config, access), request_id)
    if as_json:
        print_json(why)
    else:
        print_explanation(why)


def find_config(home: Path | None, config_path: Path | None) -> Config:
    """The configuration file in use, or defaults around the home where there is none.

    Raises:
        InputError: There is neither a file nor a home.
    """
    try:
        path = locate_config(home, config_path)
    except ConfigError as error:
        base = home or DEFAULT_HOME
        if not base.is_dir():
            raise InputError(
                f"{base}: no such directory", hint="run `fungible quickstart`, or pass --home"
            ) from error
        return Config(home=str(base))
    return load_config(path)


def parse_since(text: str, now_ns: int) -> int:
    """A span before `now_ns`, or an ISO date or time in UTC, as ns; empty is the beginning.

    Raises:
        InputError: It is neither.
    """
    if not text:
        return 0
    if span := _SPAN.fullmatch(text):
        return max(0, now_ns - int(span[1]) * _SECONDS[span[2]] * _SECOND_NS)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"--since {text!r} is neither a span nor a date",
            hint="for example 30m, 24h, 7d or 2026-01-31",
        ) from error
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0, int(at.timestamp()) * _SECOND_NS)


@contextmanager
def opened(config: Config) -> Iterator[Access]:
    """The ledger, closed at the end."""
    access = open_access(config)
    try:
        yield access
    finally:
        access.close()


def _print_report(shown: CostReport) -> None:
    unit = shown.currency or "cost"
    columns = (
        shown.by,
        "requests",
        "attempts",
        "tokens in",
        "tokens out",
        unit,
        f"{unit}/1M tok",
        "per request",
        "p50",
        "p99",
        "unpriced",
    )
    rows = [_report_row(row) for row in shown.rows]
    blanks = [""] * 4
    rows += [
        [_idle_name(row), *blanks, money(row.cost), "", f"{row.hours:.3f} h", "", "", ""]
        for row in shown.idle
    ]
    rows.append(["total", *blanks, money(shown.total), "", "", "", "", str(shown.unpriced)])
    print_table(columns, rows, title=f"Cost ({shown.kind})", right=columns[1:])
    if shown.unpriced:
        click.echo(
            f"attempts without a price: {shown.unpriced}; they are in no sum (see `fungible cost"
            " explain`)",
            err=True,
        )


def _idle_name(row: IdleRow) -> str:
    if row.kind == "unattributed":
        return f"unattributed: {row.backend}"
    return f"idle: {row.backend}, {row.kind} ({row.owner})"


def _report_row(row: CostRow) -> list[str]:
    def known(amount: Decimal | None) -> str:
        return "" if amount is None else money(amount)

    return [
        row.name,
        str(row.requests),
        str(row.attempts),
        str(row.input_tokens),
        str(row.output_tokens),
        money(row.cost),
        known(row.per_million_tokens),
        known(row.per_request_mean),
        known(row.per_request_p50),
        known(row.per_request_p99),
        str(row.unpriced) if row.unpriced else "",
    ]
