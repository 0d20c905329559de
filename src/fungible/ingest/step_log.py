"""Reads an engine's step log (docs/reference/step-log.md) into records of many steps."""

import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

import msgspec

from fungible.contract.steps import LONGEST_STEP_NS, Step, StepsEvent
from fungible.errors import DiskError, InputError

log = logging.getLogger(__name__)

BATCH_STEPS = 1000
_READ_BYTES = 4 << 20
_NS = Decimal(1_000_000_000)
_MOST_LINE = 1 << 20


class _Share(msgspec.Struct):
    id: str
    prefill: int = 0
    decode: int = 0
    kv: int = 0


class _Line(msgspec.Struct):
    """A line of either kind: the clocks of a run, or a step."""

    run: str = ""
    monotonic: Decimal | None = None
    unix: Decimal | None = None
    step: int = 0
    start: Decimal | None = None
    seconds: Decimal = Decimal(-1)
    requests: list[_Share] = []


class Mark(msgspec.Struct, kw_only=True):
    """How far a file was read, and the clock line that held there."""

    offset: int = 0
    run: str = ""
    epoch_ns: int | None = None  # the Unix time at which the run's clock stood at 0


class StepReader:
    """Turns lines into batches.

    Args:
        backend: Whose engine wrote them.
        sink: Gets each batch; what it raises goes through.
        mark: Where to go on.
        reject: Told of each line that is neither a step nor clocks: its number since the mark,
            why, and the line.

    Attributes:
        steps: Steps read.
        rejected: Such lines.
    """

    def __init__(
        self,
        backend: str,
        sink: Callable[[StepsEvent], object],
        mark: Mark | None = None,
        reject: Callable[[int, str, bytes], object] = lambda number, why, line: None,
    ) -> None:
        self.mark = mark or Mark()
        self.steps = 0
        self.rejected = 0
        self._backend = backend
        self._sink = sink
        self._reject = reject
        self._lines = 0
        self._decoder = msgspec.json.Decoder(_Line)
        self._ids: dict[str, int] = {}
        self._batch: list[Step] = []

    def feed(self, data: bytes) -> None:
        """Whole lines."""
        for line in data.splitlines():
            self._lines += 1
            if not line.strip():
                continue
            try:
                self._line(self._decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, ArithmeticError) as error:
                self.rejected += 1
                self._reject(self._lines, f"not a line of a step log: {error}", line)
            except InputError as error:
                self.rejected += 1
                self._reject(self._lines, error.message, line)
        self.mark.offset += len(data)

    def flush(self) -> None:
        """Hand over what is gathered."""
        steps, self._batch = self._batch, []
        ids, self._ids = list(self._ids), {}
        if steps:
            self._sink(StepsEvent(backend=self._backend, run=self.mark.run, ids=ids, steps=steps))
            self.steps += len(steps)

    def _line(self, line: _Line) -> None:
        if line.monotonic is not None and line.unix is not None:
            self.flush()
            self.mark.epoch_ns = _ns(line.unix - line.monotonic)
            self.mark.run = line.run or f"clock-{_ns(line.unix)}"
            return
        shares = line.requests
        counts = [count for one in shares for count in (one.prefill, one.decode, one.kv)]
        epoch, took = self.mark.epoch_ns, _ns(line.seconds)
        if line.start is None:
            raise InputError("neither a step nor clocks")
        if epoch is None:
            raise InputError("no clocks before it")
        if not 0 <= took <= LONGEST_STEP_NS:
            raise InputError("its seconds are missing, below 0 or more than an hour")
        if min(counts, default=0) < 0:
            raise InputError("a count is below 0")
        self._batch.append(
            Step(
                line.step,
                epoch + _ns(line.start),
                took,
                [self._ids.setdefault(one.id, len(self._ids)) for one in shares],
                [one.prefill for one in shares],
                [one.decode for one in shares],
                [one.kv for one in shares],
            )
        )
        if len(self._batch) >= BATCH_STEPS:
            self.flush()


def _ns(seconds: Decimal) -> int:
    return int((seconds * _NS).to_integral_value())


def read_step_log(
    path: Path,
    backend: str,
    sink: Callable[[StepsEvent], object],
    reject: Callable[[int, str, bytes], object] = lambda number, why, line: None,
) -> StepReader:
    """A whole file; a torn last line is left out. The reader says what was found.

    Raises:
        InputError: It cannot be read, or holds no step.
    """
    reader = StepReader(backend, sink, reject=reject)
    try:
        with path.open("rb") as file:
            _read_on(file, reader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not reader.steps:
        raise InputError(
            f"{path}: no step in it",
            hint="it is what `fungible engine serve --step-log FILE` writes",
        )
    return reader


class StepTail:
    """Follows the log of a running engine, also across the change from `FILE` to `FILE.1`.

    How far it came is kept in `FILE.read`, written after the records were handed over: a crash
    in between hands them over again, which the ledger recognises.

    Args:
        path: `FILE`; it need not be there yet.
        backend: Whose engine writes it.
        sink: Gets each batch.
    """

    def __init__(self, path: Path, backend: str, sink: Callable[[StepsEvent], object]) -> None:
        self._path = path
        self._backend = backend
        self._sink = sink
        self._state = path.with_name(f"{path.name}.read")
        self._marks = self._load()

    def read(self) -> int:
        """Hand over what is new; the number of steps."""
        found = 0
        seen: dict[str, Mark] = {}
        for path in (self._path.with_name(f"{self._path.name}.1"), self._path):
            try:
                with path.open("rb") as file:
                    found += self._read(path, file, seen)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
        self._marks = seen
        if found:
            self._save()
        return found

    def _read(self, path: Path, file: BinaryIO, seen: dict[str, Mark]) -> int:
        # A file is known by its first line, which no other has: inodes are used again.
        first = file.readline(_MOST_LINE)
        if not first.endswith(b"\n"):
            return 0
        name = first.decode("utf-8", "replace")
        # A copy: what fails is read again.
        mark = msgspec.structs.replace(self._marks.get(name, Mark()))
        reader = StepReader(self._backend, self._sink, mark)
        began = mark.offset
        _read_on(file, reader)
        seen[name] = mark
        if reader.rejected:
            log.warning("%s: %d lines after byte %d are no steps", path, reader.rejected, began)
        return reader.steps

    def _load(self) -> dict[str, Mark]:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=dict[str, Mark])
        except (OSError, msgspec.DecodeError):
            return {}

    def _save(self) -> None:
        hidden = self._state.with_name(f"{self._state.name}.new")
        hidden.write_bytes(msgspec.json.encode(self._marks))
        hidden.replace(self._state)


def _read_on(file: BinaryIO, reader: StepReader) -> None:
    """Feed the whole lines after the reader's mark."""
    file.seek(reader.mark.offset)
    rest = b""
    while data := file.read(_READ_BYTES):
        lines, newline, rest = (rest + data).rpartition(b"\n")
        reader.feed(lines + newline)
    reader.flush()
