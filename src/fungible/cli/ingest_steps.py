"""`fungible ingest steps`: what a self-hosted engine did, so that its hours can be shared."""

import hashlib
from pathlib import Path

import click

from fungible.cli.cost import find_config
from fungible.cli.importing import importing, read_file
from fungible.cli.options import common_options
from fungible.cli.tables import print_json
from fungible.contract.steps import StepsEvent
from fungible.errors import InputError
from fungible.ingest.intake import Intake, Receipt
from fungible.ingest.step_log import read_step_log
from fungible.ingest.vllm_metrics import Scrape, read_scrapes, weigh_classes
from fungible.ledger.spool import SpoolWriter


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--backend", required=True, help="Whose engine it was.")
@common_options
def steps(
    *,
    files: tuple[Path, ...],
    backend: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Step logs of our engine, or scrapes of vLLM's metrics, from FILES.

    A step log (`engine serve --step-log`) gives each request its share of each step. Scrapes of
    /metrics, each after a line `# scraped SECONDS`, give the weights of token classes, which
    share the hours where no steps are known.
    """
    config = find_config(home, config_path)
    if config.backend and backend not in config.backend:
        known = ", ".join(config.backend)
        raise InputError(f"unknown backend {backend!r}", hint=f"declared: {known}")
    logs = [path for path in files if _is_step_log(path)]
    pages = [path for path in files if path not in logs]
    with importing(config) as (_, spool):
        receipts = [_take_log(spool, path, backend) for path in logs]
        if pages:
            receipts.append(_take_metrics(spool, pages, backend))
    if as_json:
        print_json(receipts)
        return
    for one in receipts:
        click.echo(f"{one.source}: {one.rows} taken, {one.rejected} rejected")
        for reason in one.reasons:
            click.echo(f"  {reason}", err=True)


def _is_step_log(path: Path) -> bool:
    return read_file(path)[:4096].lstrip().startswith(b"{")


def _take_log(spool: SpoolWriter, path: Path, backend: str) -> Receipt:
    digest = hashlib.sha256(read_file(path)).hexdigest()[:32]
    with Intake(spool, stream="steps", source=path.name, digest=digest) as intake:

        def take(batch: StepsEvent) -> None:
            intake.take(batch, rows=len(batch.steps))
            intake.flush()

        def reject(line: int, why: str, text: bytes) -> None:
            intake.reject(f"line {line}", why, text.decode("utf-8", "replace"))

        read_step_log(path, backend, take, reject)
    return intake.receipt()


def _take_metrics(spool: SpoolWriter, pages: list[Path], backend: str) -> Receipt:
    scrapes: list[Scrape] = []
    digest = hashlib.sha256()
    for path in pages:
        data = read_file(path)
        digest.update(data)
        scrapes += read_scrapes(data.decode("utf-8", "replace"), str(path))
    source = " ".join(path.name for path in pages)
    weights = weigh_classes(scrapes, backend, source)
    name = digest.hexdigest()[:32]
    with Intake(spool, stream="steps", source=source, digest=name) as intake:
        intake.take(weights, rows=len(scrapes))
    return intake.receipt()
