"""`fungible artifact preflight`: what an artifact would do on chips that are not here."""

from decimal import Decimal
from pathlib import Path

import click

from fungible.artifacts.store import ArtifactStore
from fungible.cli.progress import stage_progress
from fungible.cli.tables import money, print_json, print_table
from fungible.config import DEFAULT_HOME
from fungible.preflight.chips import load_chips, parse_prices, select_chips
from fungible.preflight.compiling import StepCompiler, missing_packages
from fungible.preflight.records import Report, Row
from fungible.preflight.report import preflight as run_preflight
from fungible.preflight.report import variant_folder

_COLUMNS = ["target", "compiles", "fits", "GB", "of GB", "tokens/s ≤", "per user ≤", "limit"]
_COLUMNS += ["$/1M ≥"]


@click.command()
@click.argument("ref")
@click.option(
    "--targets",
    default="all",
    show_default=True,
    help="Comma-separated targets or their beginnings, such as xla:tpu,iree:cuda:sm_90.",
)
@click.option("--variant", default="f32", show_default=True, help="Precision to compile.")
@click.option("--batch", default=8, show_default=True, help="Rows of the decode step.")
@click.option("--context", default=1024, show_default=True, help="Tokens per row.")
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="CHIP=USD_PER_HOUR",
    help="Price of one chip, instead of the example; repeatable.",
)
@click.option(
    "--chips",
    "chip_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of chips to use instead of the one in the package.",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write $/1M tokens against tokens/s per user as a page.",
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds for one compilation.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    show_default=True,
    help="Directory with the artifact store; what compiled is kept in its cache/.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as data.")
@click.pass_context
def preflight(
    context_: click.Context,
    *,
    ref: str,
    targets: str,
    variant: str,
    batch: int,
    context: int,
    prices: tuple[str, ...],
    chip_file: Path | None,
    plot_file: Path | None,
    timeout: float,
    home: Path,
    as_json: bool,
) -> None:
    """Compile REF ahead of time for chips that are not here, and bound what they could do.

    Exit status 4 when nothing could be compiled because every compiler is missing, 1 when
    nothing compiled for another reason.
    """
    chips = select_chips(load_chips(chip_file), targets)
    chosen = parse_prices(chips, prices)
    artifact = ArtifactStore(home / "artifacts").resolve(ref)
    folder = variant_folder(artifact, variant)
    compiler = StepCompiler(folder, home / "cache" / "preflight", timeout)
    with stage_progress() as progress:
        report = run_preflight(
            artifact,
            chips,
            compiler,
            variant=variant,
            batch=batch,
            context=context,
            prices=chosen,
            progress=progress,
        )
    if plot_file:
        from fungible.preflight.plot import write_plot  # noqa: PLC0415  # only with --plot

        write_plot(report, plot_file)
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if not any(row.compiles for row in report.targets):
        context_.exit(4 if all(missing_packages(chip) for chip in chips) else 1)


def _print_report(report: Report) -> None:
    click.echo(
        f"{report.artifact} {report.variant}, {report.batch} rows of {report.context} tokens; "
        f"{report.targets[0].weight_bytes / 1e9:.2f} GB of weights, "
        f"{report.targets[0].cache_bytes / 1e9:.2f} GB of cache"
    )
    print_table(
        _COLUMNS, [_cells(row) for row in report.targets], right=_COLUMNS[3:7] + _COLUMNS[8:]
    )
    for row in report.targets:
        for text in (row.why, row.note):
            if text:
                click.echo(f"{row.target}: {text}")
    for row in report.targets:
        if row.price:
            said = f", {row.price.date}, {row.price.source}" if row.price.source else ""
            click.echo(f"{row.target}: ${row.price.usd_per_hour:g} an hour: {row.price.what}{said}")


def _cells(row: Row) -> list[str]:
    fits = {True: "yes", False: "NO", None: "unknown"}[row.fits]
    return [
        row.target,
        "yes" if row.compiles else "NO",
        fits,
        f"{row.memory_bytes / 1e9:.2f}",
        f"{row.memory_available / 1e9:.0f}" if row.memory_available else "",
        f"{row.bound_tokens_per_s:,.0f}" if row.bound_tokens_per_s else "unknown",
        f"{row.bound_tokens_per_s_per_user:,.0f}" if row.bound_tokens_per_s_per_user else "",
        row.limit or "",
        money(Decimal(row.floor_usd_per_mtok))
        if row.floor_usd_per_mtok is not None
        else "no price",
    ]
