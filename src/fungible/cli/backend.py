"""`fungible backend`: what can serve, and what each honours."""

import asyncio
from pathlib import Path

import click

from fungible.backends.registry import kinds
from fungible.cli.dispatching import dispatching, resolve_model
from fungible.cli.options import common_options, locate_config
from fungible.cli.tables import print_json, print_table
from fungible.config import binding_of, load_config
from fungible.routing.dispatch import Dispatcher
from fungible.routing.probe import Finding, probe


@click.group()
def backend() -> None:
    """List and check backends."""


@backend.command("list")
@common_options
def list_backends(*, home: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Backends of the configuration. Sends nothing."""
    config = load_config(locate_config(home, config_path))
    known = kinds()
    rows = [
        {
            "backend": name,
            "kind": settings.kind,
            "installed": settings.kind in known,
            "target": settings.engine.target if settings.engine else "",
            "variant": settings.engine.variant if settings.engine else "",
            "accelerator": settings.accelerator,
            "region": settings.region,
            "binding": binding_of(name, settings),
        }
        for name, settings in config.backend.items()
    ]
    if as_json:
        print_json(rows)
        return
    columns = ("backend", "kind", "target", "variant", "accelerator", "region", "binding")
    print_table(columns, [[str(row[column]) for column in columns] for row in rows])
    for row in rows:
        if not row["installed"]:
            click.echo(f"note: no installed package brings kind {row['kind']!r}", err=True)


@backend.command()
@click.argument("name")
@common_options
@click.option("--model", default="", help="As applications know it; default: the only route.")
@click.pass_context
def check(
    context: click.Context,
    *,
    name: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
    model: str,
) -> None:
    """Ask NAME a dozen short questions and say what it honours.

    Exit code 1 when it fails something that applications cannot do without, 4 when it does
    not answer at all. The questions are evaluation traffic: each leaves a row.
    """
    with dispatching(locate_config(home, config_path), "check") as setting:
        model, _ = resolve_model(setting.config, model, name, [name])

        async def work(dispatcher: Dispatcher) -> list[Finding]:
            return await probe(dispatcher, name, model)

        findings = asyncio.run(setting.use(work))
    passed = all(one.outcome == "honoured" for one in findings if one.required)
    if as_json:
        print_json({"backend": name, "model": model, "passed": passed, "findings": findings})
    else:
        rows = [(one.name, one.outcome, one.detail) for one in findings]
        print_table(("what", "outcome", "detail"), rows, title=name)
    context.exit(0 if passed else 1)
