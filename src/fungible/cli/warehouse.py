"""`fungible warehouse`: the tables behind the numbers."""

import click
import msgspec

from fungible.ledger.schema import BOOKKEEPING, Engine, Layout, render, script, steps


@click.group()
def warehouse() -> None:
    """The tables behind the numbers."""


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
