"""`fungible ingest prices` and `rates`: what things cost, and in which money."""

from pathlib import Path

import click

from fungible.cli.cost import find_config
from fungible.cli.importing import importing
from fungible.cli.months import moment_of
from fungible.cli.options import common_options
from fungible.cli.tables import print_json
from fungible.config import Config
from fungible.errors import InputError
from fungible.ingest.intake import Intake, Receipt
from fungible.ingest.list_prices import SOURCE, list_prices
from fungible.ingest.prices import plan_import, refuse_empty, write_import
from fungible.ingest.rates import rates_digest, read_rates, take_rates
from fungible.ledger.prices import PriceBasis, PriceRow
from fungible.ledger.sheet_cells import worksheet_of
from fungible.ledger.sheets import read_sheet

FILE = click.Path(path_type=Path, dir_okay=False)
known_option = click.option(
    "--known-at", default="", help="Since when this is known, an ISO time (UTC). Default: now."
)


@click.command()
@click.argument("file", type=FILE, required=False)
@click.option("--sheet", "worksheet", default="", help="Worksheet of a workbook.")
@click.option("--as", "name", default="", help="Name of the sheet. Default: the file's name.")
@click.option("--withdraw", default="", help="Take a whole sheet back, by its name.")
@click.option("--list", "listed", type=click.Choice([SOURCE]), help="Public list prices.")
@click.option("--provider", default="", help="Of --list: one provider's.")
@click.option("--model", "models", multiple=True, help="Of --list: this model's. Repeatable.")
@click.option(
    "--basis",
    type=click.Choice(["list", "contracted"]),
    default="list",
    show_default=True,
    help="Of --list: `contracted` where the public price is what we pay.",
)
@known_option
@common_options
def prices(
    *,
    file: Path | None,
    worksheet: str,
    name: str,
    withdraw: str,
    listed: str | None,
    provider: str,
    models: tuple[str, ...],
    basis: PriceBasis,
    known_at: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Take in a price sheet (CSV, YAML or XLSX), whole or not at all.

    It replaces what the sheet of that name said before, from now on: what was known earlier can
    still be asked for.
    """
    config = find_config(home, config_path)
    rows: list[PriceRow] = []
    skipped: list[tuple[str, str]] = []
    if sum(map(bool, (file, withdraw, listed))) != 1:
        raise InputError("name one of FILE, --list SOURCE and --withdraw NAME")
    if listed:
        public = list_prices(provider, models, basis)
        rows, skipped = public.rows, public.skipped
        refuse_empty(listed, rows)
        name = name or "/".join(filter(None, (listed, provider, *models)))
    if file is not None:
        chosen = worksheet_of(file, worksheet)
        rows = list(read_sheet(file, chosen))
        refuse_empty(str(file), rows)
        name = name or (f"{file.name}!{chosen}" if chosen else file.name)
    sheet, known_ns = name or withdraw, moment_of(known_at)
    import_rows(config, sheet, rows, known_ns, skipped=skipped, as_json=as_json)


@click.command()
@click.argument("file", type=FILE)
@known_option
@common_options
def rates(
    *, file: Path, known_at: str, home: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Take in exchange rates: CSV of day, base, quote and rate, or the ECB's reference rates."""
    config = find_config(home, config_path)
    facts = read_rates(file, moment_of(known_at))
    with importing(config) as (_, spool):
        digest = rates_digest(facts)
        with Intake(spool, stream="rates", source=file.name, digest=digest) as intake:
            take_rates(intake, facts)
    _say(intake.receipt(), as_json=as_json)


def import_rows(
    config: Config,
    sheet: str,
    rows: list[PriceRow],
    known_ns: int,
    *,
    skipped: list[tuple[str, str]],
    as_json: bool,
) -> None:
    """Check rows against the ledger, write them, and price by them."""
    with importing(config) as (access, spool):
        planned = plan_import(config, access, sheet, rows, known_ns)
        receipt = None if planned.unchanged else write_import(spool, planned, skipped)
    if receipt is not None:
        _say(receipt, as_json=as_json)
    elif as_json:
        print_json(Receipt(stream="prices", source=sheet, rows=0, rejected=0, reasons=[]))
    else:
        click.echo(f"{sheet}: nothing new")


def _say(receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        print_json(receipt)
        return
    rejected = f", {receipt.rejected} rejected" if receipt.rejected else ""
    click.echo(f"{receipt.source}: {receipt.rows} rows{rejected}")
    for reason in receipt.reasons:
        click.echo(f"  {reason}", err=True)
