"""`fungible ingest responses` and `traces`: what other gateways and tracers recorded of calls."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click
import msgspec

from fungible.cli.cost import find_config
from fungible.cli.importing import imported_before, importing
from fungible.cli.options import common_options
from fungible.cli.progress import stage_progress
from fungible.cli.tables import print_json
from fungible.config import Config
from fungible.errors import InputError
from fungible.ingest.intake import Receipt
from fungible.ingest.names import VERSION
from fungible.ingest.responses import Format, Outcome, read_responses
from fungible.ingest.run import Done, Work, digest_of_file, files_of, is_binary, run_import
from fungible.ingest.source import Item, items, messages
from fungible.ingest.traces import read_traces
from fungible.ledger.access import Access
from fungible.ledger.spool import SpoolWriter

Command = TypeVar("Command", bound=Callable[..., Any])
_FORMATS = ("auto", "openai", "anthropic", "litellm", "langfuse")
_SHOWN_REASONS = 5


def import_options(command: Command) -> Command:
    """Files and what to do with them; see `run_files`."""
    options = [
        click.argument(
            "files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True)
        ),
        click.option("--backend", default="", help="Backend of calls that name none."),
        click.option("--issuer", default="", help="Issuer of calls that name none."),
        click.option("--strict", is_flag=True, help="End at the first record that is rejected."),
        click.option("--again", is_flag=True, help="Read files that were imported before, too."),
    ]
    for option in reversed(options):
        command = option(command)
    return common_options(command)


@click.command()
@click.option("--format", "form", type=click.Choice(_FORMATS), default="auto", show_default=True)
@import_options
def responses(
    *,
    files: Sequence[Path],
    form: Format,
    backend: str,
    issuer: str,
    strict: bool,
    again: bool,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Import response logs: JSON lines, arrays and documents, also .gz and .zst; - is stdin.

    Bodies of OpenAI and Anthropic, alone or in an envelope, LiteLLM's spend logs and logging
    payloads, and Langfuse's observations; see docs/reference/ingest.md.
    """
    work = Work(
        stream="responses",
        read=lambda item, source: read_responses(item, form, source),
        defaults={"backend": backend, "issuer": issuer},
        strict=strict,
    )
    run_files(find_config(home, config_path), files, work, (form,), again=again, as_json=as_json)


@click.command()
@import_options
def traces(
    *,
    files: Sequence[Path],
    backend: str,
    issuer: str,
    strict: bool,
    again: bool,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Import spans of model calls from OTLP files: JSON, or protobuf as .pb; also .gz and .zst.

    Other spans are skipped. A running `fungible up` takes them live, too, at /v1/traces of its
    control process; see docs/reference/ingest.md.
    """
    config = find_config(home, config_path)
    attributes = config.ingest.attributes

    def read(item: Item, source: str) -> Iterator[Outcome]:
        return read_traces(item, attributes, source, binary=is_binary(source))

    def split(stream: BinaryIO, name: str, seen: Callable[[bytes], object]) -> Iterator[Item]:
        return (messages if is_binary(name) else items)(stream, name, seen)

    work = Work(
        stream="traces",
        read=read,
        split=split,
        defaults={"backend": backend, "issuer": issuer},
        strict=strict,
    )
    how = f"names {VERSION} {sorted(attributes.items())}"
    run_files(config, files, work, (how,), again=again, as_json=as_json)


def run_files(
    config: Config,
    files: Sequence[Path],
    work: Work,
    options: Sequence[str],
    *,
    again: bool,
    as_json: bool,
) -> None:
    """Import files, print the receipts, and leave their facts in the ledger.

    Raises:
        InputError: A file cannot be read, or `work.strict` and a record was rejected.
    """
    paths = files_of(files)
    done: list[Done] = []
    began_ns, own = time.time_ns(), list[int]()

    def count(access: Access) -> None:
        own.append(_own_calls(access, work.stream, done, began_ns))

    with importing(config, count) as (access, spool), stage_progress() as report:
        gateways = config.ingest.gateways
        work = msgspec.structs.replace(work, gateways=gateways, make_room=access.ship)
        for path in paths:
            digest = _digest(path, work, options)
            if not again and digest and imported_before(access, work.stream, digest):
                done.append(_known_before(path, work))
                continue
            shown = msgspec.structs.replace(work, seen=_bar(path, report))
            done.append(_one(spool, path, digest, shown))
    _print(done, sum(own), as_json)
    rows = sum(one.receipt.rows for one in done)
    if not rows and any(one.receipt.rejected for one in done):
        click.get_current_context().exit(InputError.exit_code)


def _own_calls(access: Access, stream: str, done: Sequence[Done], since_ns: int) -> int:
    """How many of the facts that were read are about attempts of our own gateway."""
    read = [f"{one.receipt.source}:" for one in done if not one.known]
    found = access.query(
        "SELECT count() FROM own_call_facts FINAL WHERE stream = {stream:String}"
        " AND at_ns >= {since:Int64}"
        " AND arrayExists(name -> startsWith(source, name), {read:Array(String)})",
        {"stream": stream, "since": since_ns, "read": read},
    )
    return int(found.rows[0][0])


def _one(spool: SpoolWriter, path: Path, digest: str, work: Work) -> Done:
    if str(path) == "-":
        return run_import(spool, sys.stdin.buffer, "stdin", digest, work)
    with _opened(path) as file:
        return run_import(spool, file, path.name, digest, work)


def _digest(path: Path, work: Work, options: Sequence[str]) -> str:
    if str(path) == "-":
        return ""
    return digest_of_file(path, work.stream, *options, *work.defaults.values(), *work.gateways)


def _known_before(path: Path, work: Work) -> Done:
    empty = Receipt(stream=work.stream, source=path.name, rows=0, rejected=0, reasons=[])
    return Done(receipt=empty, known=True)


def _bar(path: Path, report: Callable[[str, int, int], None]) -> Callable[[int], None]:
    size = 0 if str(path) == "-" else path.stat().st_size
    read = 0

    def seen(count: int) -> None:
        nonlocal read
        read += count
        report(path.name, read, max(size, read))

    return seen


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _print(done: Sequence[Done], own: int, as_json: bool) -> None:
    if as_json:
        print_json({"files": done, "own_calls": own})
        return
    for one in done:
        receipt = one.receipt
        if one.known:
            click.echo(f"{receipt.source}: imported before; --again reads it once more")
            continue
        notes = [f"{receipt.rows} taken", f"{receipt.rejected} rejected", f"{one.skipped} skipped"]
        if one.to_gateways:
            notes.append(f"{one.to_gateways} left out as calls to our own gateway")
        if one.untimed:
            notes.append(f"{one.untimed} of them wait for a record that says when they were")
        click.echo(f"{receipt.source}: {', '.join(notes)}")
        for reason in receipt.reasons[:_SHOWN_REASONS]:
            click.echo(f"  {reason}", err=True)
        if len(receipt.reasons) > _SHOWN_REASONS:
            click.echo("  … the others are in the table `rejects`", err=True)
    if own:
        click.echo(f"{own} of them about calls of our own gateway, which are attempts already")
