"""`fungible ingest infra` and `invoice`: whole files, each row taken or rejected by itself."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from fungible.cli.cost import find_config
from fungible.cli.importing import imported_before, importing, read_file
from fungible.cli.ingest_prices import known_option
from fungible.cli.months import moment_of
from fungible.cli.options import common_options
from fungible.cli.tables import print_json
from fungible.config import Config
from fungible.errors import InputError
from fungible.ingest.infra import take_infra
from fungible.ingest.intake import Intake, Receipt
from fungible.ingest.invoice import take_invoice

FILES = click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
AGAIN = click.option("--again", is_flag=True, help="Also files that were taken before.")
Take = Callable[[Intake, Path, bytes], None]


@click.command()
@FILES
@click.option(
    "--observed-at",
    default="",
    help="When the lists were made, an ISO time (UTC). Default: when the file was last changed.",
)
@AGAIN
@common_options
def infra(
    *,
    files: tuple[Path, ...],
    observed_at: str,
    again: bool,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Take in machines, pods and deployments: which backend runs on what, and since when.

    FILES are JSON as `aws ec2 describe-instances`, `kubectl get nodes,pods -o json`, `gcloud
    compute instances list` and `az vm list -d` print it, or CSV. Machines that name a backend
    are paid by the hour from their start to when they were last seen.
    """
    config = find_config(home, config_path)

    def take(intake: Intake, path: Path, data: bytes) -> None:
        seen = moment_of(observed_at) if observed_at else path.stat().st_mtime_ns
        take_infra(intake, data, observed_ns=seen)

    take_files(config, "infra", files, take, again=again, as_json=as_json)


@click.command()
@FILES
@known_option
@AGAIN
@common_options
def invoice(
    *,
    files: tuple[Path, ...],
    known_at: str,
    again: bool,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Take in invoices: FOCUS (CSV, Parquet), AWS cost and usage reports, or a plain table."""
    config = find_config(home, config_path)
    known_ns = moment_of(known_at)

    def take(intake: Intake, path: Path, data: bytes) -> None:
        take_invoice(intake, path, data, known_ns=known_ns)

    take_files(config, "invoice", files, take, again=again, as_json=as_json)


def take_files(
    config: Config,
    stream: str,
    files: tuple[Path, ...],
    take: Take,
    *,
    again: bool,
    as_json: bool,
) -> None:
    """Import whole files, and say what became of each; exit code 2 when nothing could be used.

    Raises:
        InputError: A file cannot be read, or is none of the known forms; others are taken.
    """
    receipts: list[Receipt] = []
    wrong: list[InputError] = []
    with importing(config) as (access, spool):
        for path in files:
            try:
                data = read_file(path)
            except InputError as error:
                wrong.append(error)
                continue
            digest = hashlib.sha256(data).hexdigest()
            if not again and imported_before(access, stream, digest):
                receipts.append(_nothing_new(stream, path))
                continue
            try:
                with Intake(spool, stream=stream, source=path.name, digest=digest) as intake:
                    take(intake, path, data)
            except InputError as error:
                wrong.append(InputError(f"{path}: {error.message}", hint=error.hint))
                continue
            receipts.append(intake.receipt())
    _say(receipts, as_json=as_json)
    if wrong:
        for one in wrong[1:]:
            click.echo(f"error: {one.message}", err=True)
        raise wrong[0]
    if any(one.rejected for one in receipts) and not any(one.rows for one in receipts):
        sys.exit(2)


def _nothing_new(stream: str, path: Path) -> Receipt:
    return Receipt(stream=stream, source=path.name, rows=0, rejected=0, reasons=[])


def _say(receipts: list[Receipt], *, as_json: bool) -> None:
    if as_json:
        print_json([msgspec.to_builtins(one) for one in receipts])
        return
    for one in receipts:
        rejected = f", {one.rejected} rejected" if one.rejected else ""
        click.echo(f"{one.source}: {one.rows or 'no new'} rows{rejected}")
        for reason in one.reasons:
            click.echo(f"  {reason}", err=True)
