"""Whether there is room for rows: the spool's declared size, and outages of the disk below it."""

import contextlib
import logging
import os
import time
from pathlib import Path

from fungible.errors import DiskError
from fungible.ledger.segments import OPEN, SEALED

log = logging.getLogger(__name__)

# How often the folder is looked at for what others wrote and what was shipped.
LOOK_S = 1.0
# Looking takes at most this share of a writer's time, however many segments wait.
LOOK_SHARE = 0.05
PROBE_S = 1.0
# An outage is over when this much can be written: a few rows alone would not make one.
PROBE_BYTES = 65_536


class Room:
    """Bytes of segments under a spool directory, against its bound. For one thread.

    Own bytes are counted as they are written, those of other writers when the folder is
    looked at: between two looks the bound can be passed by what they wrote meanwhile.

    Args:
        root: The spool directory, with a folder for each writer.
        max_bytes: The bound; `None` for no bound, and then nothing is ever looked at.
    """

    def __init__(self, root: Path, max_bytes: int | None) -> None:
        self._root = root
        self._max = max_bytes
        self._held = 0
        self._look_at = 0.0

    def check(self, size: int) -> None:
        """Do nothing, or raise `DiskError` if `size` bytes more would pass the bound."""
        if self._max is None:
            return
        began = time.monotonic()
        if began >= self._look_at:
            self._held = held_bytes(self._root)
            took = time.monotonic() - began
            self._look_at = began + max(LOOK_S, took / LOOK_SHARE)
        if self._held + size > self._max:
            raise DiskError(
                f"{self._root}: {self._held} bytes wait to be shipped, {self._max} are allowed",
                hint="start control, which ships them, or raise [ledger] max_spool_bytes",
            )

    def taken(self, size: int) -> None:
        """So many bytes were written."""
        self._held += size


class Outage:
    """A time in which rows cannot be written; said in the log when it begins and when it ends.

    Attributes:
        since: When it began (monotonic seconds); `None` while all is well.
    """

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self.since: float | None = None
        self._refused = 0
        self._probe_at = 0.0

    def refused(self, error: DiskError, writes: int) -> None:
        """So many writes were refused."""
        now = time.monotonic()
        self._refused += writes
        if self.since is None:
            self.since = now
            self._probe_at = now + PROBE_S
            log.error(
                "%s: no row can be written until this is over: %s; hint: %s",
                self._writer,
                error.message,
                error.hint,
            )

    def probe_in_s(self) -> float | None:
        """Seconds until it is time to see whether it is over; `None` if there is no outage."""
        return None if self.since is None else max(0.0, self._probe_at - time.monotonic())

    def probe(self, folder: Path, room: Room) -> None:
        """See whether it is over: whether a file of `PROBE_BYTES` would be written."""
        try:
            room.check(PROBE_BYTES)
            _write_and_forget(folder)
        except (DiskError, OSError):
            self._probe_at = time.monotonic() + PROBE_S
            return
        since, self.since = self.since, None
        seconds = time.monotonic() - since if since is not None else 0.0
        refused, self._refused = self._refused, 0
        log.warning(
            "%s: rows are written again, after %.1f s; %d writes were refused",
            self._writer,
            seconds,
            refused,
        )


def held_bytes(root: Path) -> int:
    """Bytes of all segments below `root`. What is quarantined does not count: nobody ships it."""
    held = 0
    for folder in _entries(root):
        if folder.is_dir(follow_symlinks=False):
            for entry in _entries(Path(folder.path)):
                if entry.name.endswith((OPEN, SEALED)):
                    with contextlib.suppress(FileNotFoundError):  # shipped, or sealed just now
                        held += entry.stat().st_size
    return held


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write_and_forget(folder: Path) -> None:
    """Write a file without a name, so that nothing of it stays, however this process ends."""
    path = folder / f"{os.getpid()}.probe"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        path.unlink()
        view = memoryview(bytes(PROBE_BYTES))
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
