"""The spool: where a process puts its records before a reply ends.

One folder per writing process. `write` and `commit` return when the records are on disk
(appended and fsynced); whatever waits at the same moment, or within a millisecond while many
write, shares one fsync. Segments are sealed after a quarter of a second or a mebibyte and then
belong to the shipper. A full disk, or a spool that holds as much as it may, costs the rows of that
moment and nothing else; the writer finds out by itself when it is over.
"""

import asyncio
import contextlib
import fcntl
import math
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from fungible.contract.events import RECORDS, Record
from fungible.contract.ids import new_id
from fungible.errors import DiskError, InputError, UnavailableError
from fungible.ledger.room import Outage, Room
from fungible.ledger.segments import OPEN, SEALED, encode_frame

ROTATE_S = 0.25
ROTATE_BYTES = 1 << 20
# While several wait at once, batches begin at least this far apart: fewer, larger fsyncs.
GATHER_S = 0.001
_FLOATS: dict[type[Record], tuple[str, ...]] = {
    kind: tuple(name for name, note in kind.__annotations__.items() if "float" in str(note))
    for kind in RECORDS
}
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SpoolWriter:
    """Appends records for one process.

    Args:
        root: The spool directory (`Config.spool_path()`).
        writer: Name of this process's folder, such as `gateway-0`. Two processes that use
            the same name do not disturb each other: every segment has a name of its own.
        max_bytes: How much the segments of all writers may hold; at the bound, as on a full
            disk, records are refused.

    Raises:
        DiskError: The folder cannot be made.
        InputError: The writer's name is not usable as a folder name.
    """

    def __init__(self, root: Path, writer: str, *, max_bytes: int | None = None) -> None:
        if not _WRITER.fullmatch(writer):
            raise InputError(f"spool writer {writer!r}: letters, digits and . _ - only")
        self.folder = root / writer
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _disk_error(self.folder, error) from error
        self._segment: _Segment | None = None
        self._room = Room(root, max_bytes)
        self._outage = Outage(writer)
        self._queue: list[tuple[bytes, _Done]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"spool-{writer}", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether records were refused and nothing has shown yet that there is room again."""
        return self._outage.since is not None

    def write(self, *records: Record) -> None:
        """Append records; they are on disk when this returns.

        Raises:
            DiskError: The disk is full or refuses, or the spool is at its bound; none of these
                records was accepted.
            InputError: A number is not finite, so JSON cannot hold it.
            UnavailableError: The writer is closed.
        """
        done: Future[None] = Future()
        self._submit(records, done)
        done.result()

    async def commit(self, *records: Record) -> None:
        """`write`, without blocking the event loop; same guarantee, same errors.

        Cancelling the caller does not take the records back.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(records, done)
        await done

    def close(self) -> None:
        """Write what waits, seal the segment, end the thread. Calling again does nothing."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, records: tuple[Record, ...], done: "_Done") -> None:
        for record in records:
            _check_finite(record)
        data = b"".join(map(encode_frame, records))
        with self._wake:
            if self._closed:
                raise UnavailableError(f"{self.folder}: the spool writer is closed")
            self._queue.append((data, done))
            self._wake.notify()

    def _run(self) -> None:
        gather_until = 0.0
        while True:
            with self._wake:
                if not self._queue and not self._closed:
                    self._wake.wait(self._patience_s())
            if self._queue and (rest := gather_until - time.monotonic()) > 0:
                time.sleep(rest)
            with self._wake:
                batch, self._queue = self._queue, []
                ending = self._closed and not batch
            if batch:
                # Whoever writes alone waits for nobody.
                gather_until = time.monotonic() + GATHER_S if len(batch) > 1 else 0.0
                self._append(batch)
            if self._segment is not None and (ending or self._segment.full()):
                self._seal(self._segment)
            if ending:
                return
            if self._outage.probe_in_s() == 0.0:
                self._outage.probe(self.folder, self._room)

    def _patience_s(self) -> float | None:
        """Seconds until there is something to do though nobody writes."""
        waits = [self._outage.probe_in_s(), self._segment.remaining_s() if self._segment else None]
        return min((one for one in waits if one is not None), default=None)

    def _append(self, batch: list[tuple[bytes, "_Done"]]) -> None:
        failure = None
        try:
            self._put(b"".join(data for data, _ in batch))
        except DiskError as error:
            failure = error
            self._outage.refused(error, len(batch))
        _tell([done for _, done in batch], failure)

    def _put(self, data: bytes) -> None:
        self._room.check(len(data))
        try:
            if self._segment is None:
                self._segment = _Segment(self.folder)
            self._segment.append(data)
        except OSError as error:
            if self._segment is not None and not self._segment.usable:
                self._seal(self._segment)
            raise _disk_error(self.folder, error) from error
        self._room.taken(len(data))

    def _seal(self, segment: "_Segment") -> None:
        self._segment = None
        segment.seal()


_Done = Future[None] | asyncio.Future[None]


def _tell(waiting: Sequence[_Done], failure: DiskError | None) -> None:
    """Say how a batch went: one wake-up for all that wait in the same event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for done in waiting:
        if isinstance(done, Future):
            _settle(done, failure)
        else:
            loops.setdefault(done.get_loop(), []).append(done)
    for loop, several in loops.items():
        # The loop may be gone, and with it whoever waited.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle_all, several, failure)


def _settle_all(waiting: list[asyncio.Future[None]], failure: DiskError | None) -> None:
    for done in waiting:
        if not done.done():  # the caller was cancelled; its records are kept
            _settle(done, failure)


def _settle(done: _Done, failure: DiskError | None) -> None:
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


class _Segment:
    """One open segment: locked before anyone can see it, truncated back after a failed append."""

    def __init__(self, folder: Path) -> None:
        name = new_id()
        hidden = folder / f"{name}.new"
        self.path = folder / f"{name}{OPEN}"
        self.fd = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            hidden.rename(self.path)
            _sync_folder(folder)
        except OSError:
            hidden.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            os.close(self.fd)
            raise
        self.size = 0
        self.usable = True
        self._born = time.monotonic()

    def append(self, data: bytes) -> None:
        """All of `data` on disk, or none of it and an `OSError`."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self.fd, view) :]
            os.fsync(self.fd)
        except OSError:
            # What a failed fsync left behind is unknown, so nothing more goes into this file.
            self.usable = False
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self.size)
            raise
        self.size += len(data)

    def remaining_s(self) -> float:
        return max(0.0, self._born + ROTATE_S - time.monotonic())

    def full(self) -> bool:
        return self.size >= ROTATE_BYTES or self.remaining_s() == 0.0

    def seal(self) -> None:
        """Rename to its sealed name; if that fails, the shipper seals it as an orphan.

        One that nothing was put into is removed: a full disk would leave one for every try.
        """
        with contextlib.suppress(OSError):
            if self.size:
                self.path.rename(self.path.with_suffix(SEALED))
            else:
                self.path.unlink()
        os.close(self.fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _disk_error(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{path}: cannot write: {error.strerror}", hint="free disk space or fix its permissions"
    )


def _check_finite(record: Record) -> None:
    """JSON has no NaN or infinity: refuse them here instead of losing the record later."""
    for field in _FLOATS[type(record)]:
        value = getattr(record, field)
        numbers = value.values() if isinstance(value, dict) else (value,)
        if any(number is not None and not math.isfinite(number) for number in numbers):
            name = type(record).__name__
            raise InputError(f"{name}.{field} is {value}; it must be a finite number")
