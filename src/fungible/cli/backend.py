"""`fungible backend`: what can serve, and what each honours."""

import asyncio
from pathlib import Path

import click

from fungible.backends.registry import kinds
from fungible.cli.dispatching import Setting, dispatching, name_model
from fungible.cli.options import common_options, locate_config
from fungible.cli.progress import stage_progress
from fungible.cli.tables import print_json, print_table
from fungible.config import binding_of, load_config
from fungible.conformance.finding import Finding
from fungible.conformance.report import (
    DriftReport,
    file_name,
    folder_of,
    latest,
    report_of,
    with_drift,
    write_report,
)
from fungible.conformance.suite import QUESTIONS, examine
from fungible.contract.accelerators import accelerator_named, accelerators
from fungible.control.engines import temporary_engines
from fungible.routing.dispatch import Dispatcher


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
            "accelerator_facts": accelerator_named(settings.accelerator),
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


@backend.command("accelerators")
@click.option("--json", "as_json", is_flag=True, help="Every fact, with its sources.")
def list_accelerators(*, as_json: bool) -> None:
    """Accelerators that a backend can declare, and what is publicly stated about them."""
    rows = list(accelerators().values())
    if as_json:
        print_json(rows)
        return
    columns = ("accelerator", "product", "memory GB", "GB/s", "reached by")
    print_table(
        columns,
        [
            (one.id, one.name, _known(one.memory_gb), _known(one.bandwidth_gb_s), one.reached)
            for one in rows
        ],
    )


def _known(figure: float | None) -> str:
    return "" if figure is None else f"{figure:g}"


@backend.command()
@click.argument("name")
@common_options
@click.option("--model", default="", help="As applications know it; default: the only route.")
@click.option("--reference", default="", help="Compare tokens with; default: the route's own.")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here, too."
)
@click.pass_context
def check(
    context: click.Context,
    *,
    name: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
    model: str,
    reference: str,
    save: Path | None,
) -> None:
    """Ask NAME some fifty short questions and say what it honours.

    Local engines that are not running are started for the time that it takes.

    Writes a drift report under the home directory: what is honoured, degraded, ignored,
    refused or failed, and what of that changed since the report before. Exit code 1 when it
    fails something that applications cannot do without, 4 when it does not answer at all.
    The questions are evaluation traffic: each leaves a row.
    """
    path = locate_config(home, config_path)
    with dispatching(path, "check") as setting, stage_progress() as bar:
        model, reference = name_model(setting.config, model, reference, [name])
        asked = iter(range(len(QUESTIONS)))

        async def work(dispatcher: Dispatcher) -> list[Finding]:
            return await examine(
                dispatcher,
                name,
                model,
                reference=reference,
                progress=lambda _: bar("questions", next(asked), len(QUESTIONS)),
            )

        async def with_engines() -> list[Finding]:
            needed = (name, reference)
            starting = temporary_engines(
                setting.config, needed, base=path.parent, progress=_announce
            )
            async with starting as running:
                return await Setting(running, setting.spool).use(work)

        findings = asyncio.run(with_engines())
    folder = folder_of(setting.config, name)
    report = report_of(setting.config, name, model, reference, findings)
    report = with_drift(report, latest(folder))
    for path in (folder / file_name(report), *([save] if save else [])):
        write_report(report, path)
    if as_json:
        print_json(report)
    else:
        _show(report, folder / file_name(report))
    context.exit(0 if report.passed else 1)


def _announce(name: str) -> None:
    click.echo(f"starting the engine of {name} …", err=True)


def _show(report: DriftReport, path: Path) -> None:
    rows = [(one.name, one.outcome, one.detail) for one in report.findings]
    print_table(("what", "outcome", "detail"), rows, title=report.backend)
    for change in report.drift:
        click.echo(f"drift: {change.name} was {change.before}, is {change.now}", err=True)
    click.echo(f"report: {path}", err=True)
