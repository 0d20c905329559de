"""`fungible cost reconcile`: what was billed against what we priced."""

import sys
import time
from pathlib import Path

import click

from fungible.cli.cost import find_config, opened
from fungible.cli.months import month_span
from fungible.cli.options import common_options
from fungible.cli.tables import money, print_json, print_table
from fungible.ledger.known_prices import book_as_known, rates_as_known
from fungible.ledger.reconcile import IssuerSum, Reconciliation
from fungible.ledger.reconcile import reconcile as compared

EXIT = {"within": 0, "empty": 0, "beyond": 1, "inconclusive": 3}


@click.command()
@click.option("--month", default="", help="Such as 2026-10 (UTC). Default: everything.")
@common_options
def reconcile(*, month: str, home: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Billed = priced + known gaps + unexplained, by issuer, SKU and day.

    Exit code 0: at most 1 % of what each issuer billed is unexplained (or there is nothing at
    all), 1: more, 3: no invoice to compare with, or one that cannot be converted.
    """
    config = find_config(home, config_path)
    span = month_span(month)
    with opened(config) as access:
        book, rates = book_as_known(config, access), rates_as_known(access)
        found = compared(access, book, rates, span=span, now_ns=time.time_ns())
    if as_json:
        print_json(found)
    else:
        _print(found)
    sys.exit(EXIT[found.outcome])


def _print(found: Reconciliation) -> None:
    columns = (
        *("issuer", "state", "billed", "priced", "known gaps", "unexplained", "share"),
        *("not billed yet", "unpriced", "kappa"),
    )
    print_table(
        columns,
        [_cells(one) for one in found.issuers],
        title=f"Reconciliation ({found.currency})",
        right=columns[2:],
    )
    for one in found.unpriced:
        click.echo(f"{one.day} {one.issuer}: {one.attempts} attempts without a price", err=True)
    for problem in found.problems:
        click.echo(problem, err=True)
    click.echo(f"{found.outcome}; the target is {found.target:.0%} of what is billed for use")


def _cells(one: IssuerSum) -> list[str]:
    return [
        one.issuer,
        one.state,
        "none" if one.billed is None else money(one.billed),
        money(one.priced),
        money(one.gaps),
        "" if one.unexplained is None else money(one.unexplained),
        "" if one.share is None else f"{one.share:.3%}",
        money(one.open),
        str(one.unpriced),
        "" if one.kappa is None else f"{one.kappa:.4f}",
    ]
