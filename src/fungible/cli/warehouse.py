"""`fungible warehouse`: the tables behind the numbers."""

import hashlib
import secrets

import click
import msgspec

from fungible.cli.warehouse_build import build, endpoint
from fungible.config import ClickHouseSettings, ReaderSettings
from fungible.config.check import check_clickhouse
from fungible.ledger.schema import BOOKKEEPING, Engine, Layout, render, script, steps


@click.group()
def warehouse() -> None:
    """The tables behind the numbers."""


warehouse.add_command(build)
warehouse.add_command(endpoint)


@warehouse.command()
@click.option(
    "--engine",
    type=click.Choice(["plain", "replicated"]),
    default="plain",
    show_default=True,
    help="`replicated` is for servers with a Keeper.",
)
@click.option("--cluster", default="", help="Run each statement ON CLUSTER of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data.")
def ddl(*, engine: Engine, cluster: str, as_json: bool) -> None:
    """Print what a new ledger needs, as SQL for an administrator to run.

    The same is done by itself where Fungible may create tables.
    """
    layout = Layout(engine=engine, cluster=cluster)
    if not as_json:
        click.echo(script(layout))
        return
    found = [
        {"version": step.version, "name": step.name, "sql": step.rendered(layout)}
        for step in steps().values()
    ]
    line = {"bookkeeping": render(BOOKKEEPING, layout), "steps": found}
    click.echo(msgspec.json.encode(line).decode())


@warehouse.command()
@click.option("--name", default="my-reader", show_default=True, help="Name of the user.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data.")
def reader(*, name: str, as_json: bool) -> None:
    """Make a read-only user of the ClickHouse endpoint, and show its token once."""
    token = f"fr-{secrets.token_urlsafe(32)}"
    settings = ReaderSettings(hash=hashlib.sha256(token.encode()).hexdigest())
    check_clickhouse("command line", ClickHouseSettings(reader={name: settings}))
    toml = f'[control.clickhouse.reader.{name}]\nhash = "{settings.hash}"'
    if as_json:
        line = {"name": name, "token": token, "hash": settings.hash, "toml": toml}
        click.echo(msgspec.json.encode(line).decode())
        return
    click.echo(token)
    click.echo(f"\nThe token is shown this once. For fungible.toml:\n\n{toml}", err=True)
