"""Runs one import of a file: every record taken, skipped or rejected, and room made meanwhile."""

import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from fungible.contract.streams import ResponseFact, SpanFact
from fungible.errors import DiskError, InputError
from fungible.ingest.gateways import is_gateway
from fungible.ingest.intake import Intake, Receipt
from fungible.ingest.responses import Outcome
from fungible.ingest.source import Item, items
from fungible.ledger.room import LOOK_S
from fungible.ledger.spool import SpoolWriter

# Facts after which what was sealed is shipped: some tens of mebibytes in the spool.
ROOM_ROWS = 50_000
_BINARY = (".pb", ".binpb")
SUFFIXES = (".json", ".jsonl", ".ndjson", *_BINARY)
_PACKED = (".gz", ".gzip", ".zst", ".zstd")

CallFact = ResponseFact | SpanFact
Reader = Callable[[Item, str], Iterable[Outcome]]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """How an import is done.

    Attributes:
        stream: `responses` or `traces`.
        read: The outcomes of one item of a source of this name.
        split: The items of a file; lines and documents of JSON unless it says otherwise.
        defaults: Fields of facts that state none, such as the backend.
        gateways: Servers that are our own gateways; calls to them are left out.
        strict: End at the first record that is rejected.
        make_room: Called now and then: moves what is sealed out of the spool.
        seen: Is told how many bytes were read.
    """

    stream: str
    read: Reader
    split: Callable[[BinaryIO, str, Callable[[bytes], object]], Iterator[Item]] = items
    defaults: dict[str, str] = {}
    gateways: Sequence[str] = ()
    strict: bool = False
    make_room: Callable[[], object] = bool
    seen: Callable[[int], object] = bool


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file.

    Attributes:
        skipped: Records that are no model calls.
        to_gateways: Calls to our own gateways, left out.
        untimed: Rows taken that do not say when the call was; they wait for one that does.
        known: The same file was imported before, and nothing was read.
    """

    receipt: Receipt
    skipped: int = 0
    to_gateways: int = 0
    untimed: int = 0
    known: bool = False


def run_import(spool: SpoolWriter, stream: BinaryIO, source: str, digest: str, work: Work) -> Done:
    """Import one source.

    Raises:
        InputError: A record was rejected and `strict` asks for an end.
        DiskError: The spool cannot be written; run the import again.
    """
    skipped = untimed = to_gateways = 0
    hashed = hashlib.sha256()

    def seen(data: bytes) -> None:
        hashed.update(data)
        work.seen(len(data))

    with Intake(spool, stream=work.stream, source=source, digest=digest) as intake:
        since = 0
        for item in work.split(stream, source, seen):
            for outcome in work.read(item, source):
                if outcome.reason:
                    intake.reject(
                        outcome.place, outcome.reason, outcome.sample.decode("utf-8", "replace")
                    )
                    if work.strict:
                        raise InputError(f"{source}: {outcome.place}: {outcome.reason}")
                elif outcome.fact is None:
                    skipped += 1
                    continue
                elif is_gateway(outcome.fact.server, work.gateways):
                    to_gateways += 1
                    continue
                else:
                    fact = _with_defaults(outcome.fact, work.defaults)
                    untimed += not (fact.started_ns or fact.ended_ns)
                    with _room(intake, work):
                        intake.take(fact)
                since += 1
                if since >= ROOM_ROWS:
                    since = 0
                    work.make_room()
        if not digest:
            intake.identify(hashed.hexdigest())
    return Done(receipt=intake.receipt(), skipped=skipped, to_gateways=to_gateways, untimed=untimed)


@contextmanager
def _room(intake: Intake, work: Work) -> Iterator[None]:
    """When the spool is full, ship what is sealed and try once more."""
    try:
        yield
    except DiskError:
        time.sleep(1.5 * LOOK_S)  # what was written is sealed by then, and the writer looks again
        work.make_room()
        time.sleep(1.5 * LOOK_S)
        intake.flush()


def _with_defaults(fact: CallFact, defaults: dict[str, str]) -> CallFact:
    missing = {name: value for name, value in defaults.items() if value and not getattr(fact, name)}
    return msgspec.structs.replace(fact, **missing) if missing else fact


def digest_of_file(path: Path, *options: str) -> str:
    """Identity of a file and of what it is read as."""
    hashed = hashlib.sha256(repr(options).encode())
    try:
        with path.open("rb") as file:
            while data := file.read(io.DEFAULT_BUFFER_SIZE << 7):
                hashed.update(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return hashed.hexdigest()


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Files as given, and those of directories, by name, that may hold records.

    Raises:
        InputError: A path is not there, or a directory holds no such file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file() and _readable(one))
            if not inside:
                raise InputError(f"{path}: no file in it ends in {', '.join(SUFFIXES)}")
            found += inside
        elif path.is_file() or str(path) == "-":
            found.append(path)
        else:
            raise InputError(f"{path}: no such file")
    return found


def is_binary(name: str) -> bool:
    """Whether a file of this name holds protobuf."""
    return _unpacked(Path(name)).suffix in _BINARY


def _readable(path: Path) -> bool:
    return _unpacked(path).suffix in SUFFIXES and not path.name.startswith(".")


def _unpacked(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in _PACKED else path
