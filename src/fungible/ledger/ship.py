"""From the spool into the ledger, exactly once.

A sealed segment is inserted under a token of its own and unlinked after that. A crash in
between inserts it again under the same token, which the engine recognises and drops.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fungible.contract.events import Record
from fungible.errors import DiskError
from fungible.ledger.segments import OPEN, SEALED, Damage, read_frames, seal_orphan
from fungible.ledger.store import Store

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"


def ship(spool_root: Path, store: Store) -> int:
    """Insert every sealed or abandoned segment and unlink it; the number of rows inserted.

    Bytes that hold no record go to `<spool>/quarantine/`, with a warning. When another
    process is shipping the same spool, nothing happens and the answer is 0.

    Raises:
        DiskError: A segment or the quarantine cannot be read or written.
        UnavailableError: The ledger refused; unshipped segments stay for the next call.
    """
    if not spool_root.is_dir():
        return 0
    with _only_shipper(spool_root) as alone:
        if not alone:
            return 0
        try:
            return sum(_ship_segment(path, spool_root, store) for path in _segments(spool_root))
        except OSError as error:
            raise DiskError(
                f"{spool_root}: cannot ship: {error}", hint="free disk space or fix permissions"
            ) from error


def _ship_segment(path: Path, spool_root: Path, store: Store) -> int:
    records: list[Record] = []
    for part in read_frames(path.read_bytes()):
        if isinstance(part, Damage):
            _quarantine(spool_root, path, part)
        else:
            records.append(part)
    store.insert(records, f"{path.parent.name}/{path.stem}")
    path.unlink()
    return len(records)


def _segments(spool_root: Path) -> list[Path]:
    """Sealed segments, oldest first; names sort by the time they were opened."""
    for path in spool_root.glob(f"*/*{OPEN}"):
        seal_orphan(path)
    return sorted(spool_root.glob(f"*/*{SEALED}"), key=lambda path: (path.stem, path))


def _quarantine(spool_root: Path, path: Path, damage: Damage) -> None:
    folder = spool_root / QUARANTINE
    folder.mkdir(exist_ok=True)
    target = folder / f"{path.parent.name}-{path.stem}-{damage.offset}.bad"
    target.write_bytes(damage.data)
    log.warning(
        "%s: %d bytes at offset %d skipped (%s); kept in %s",
        path,
        len(damage.data),
        damage.offset,
        damage.reason,
        target,
    )


@contextmanager
def _only_shipper(spool_root: Path) -> Iterator[bool]:
    fd = os.open(spool_root / "ship.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)
