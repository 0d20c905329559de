"""From the spool into the ledger, exactly once.

Sealed segments are inserted several at once, under a token that names them, and unlinked after
that. A crash in between inserts them again under the same token, which the engine recognises
and drops: which segments were together is written down before.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fungible.contract.events import Record
from fungible.errors import DiskError
from fungible.ledger.segments import OPEN, SEALED, Damage, read_frames, seal_orphan
from fungible.ledger.store import Store

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"
BEGUN = "ship.batch"  # which segments are being inserted together
BATCH_BYTES = 16 << 20


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
            shipped = _ship_begun(spool_root, store)
            return shipped + sum(
                _ship_batch(batch, spool_root, store) for batch in _batches(_segments(spool_root))
            )
        except OSError as error:
            raise DiskError(
                f"{spool_root}: cannot ship: {error}", hint="free disk space or fix permissions"
            ) from error


def _ship_begun(spool_root: Path, store: Store) -> int:
    """Finish the batch that a crash or a refusal cut short; rows inserted."""
    note = spool_root / BEGUN
    if not note.exists():
        return 0
    paths = [spool_root / name for name in msgspec.json.decode(note.read_bytes(), type=list[str])]
    there = [path for path in paths if path.exists()]
    if len(there) == len(paths):
        return _insert(paths, spool_root, store)
    _unlink(there, spool_root)  # unlinking had begun, so all of them are in the ledger
    return 0


def _ship_batch(paths: Sequence[Path], spool_root: Path, store: Store) -> int:
    # One alone is noted, too: after a crash it must not go together with what came since.
    if not _note(paths, spool_root):
        return sum(_insert([path], spool_root, store) for path in paths)
    return _insert(paths, spool_root, store)


def _note(paths: Sequence[Path], spool_root: Path) -> bool:
    """Write down which segments go together; `False` when the disk has no room for that."""
    names = [str(path.relative_to(spool_root)) for path in paths]
    hidden = spool_root / f"{BEGUN}.new"
    try:
        with hidden.open("wb") as file:
            file.write(msgspec.json.encode(names))
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(spool_root / BEGUN)
    except OSError:
        hidden.unlink(missing_ok=True)
        return False
    return True


def _insert(paths: Sequence[Path], spool_root: Path, store: Store) -> int:
    """Insert the records of these segments under one token, then unlink them."""
    records: list[Record] = []
    for path in paths:
        for part in read_frames(path.read_bytes()):
            if isinstance(part, Damage):
                _quarantine(spool_root, path, part)
            else:
                records.append(part)
    names = [f"{path.parent.name}/{path.stem}" for path in paths]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    store.insert(records, names[0] if len(names) == 1 else f"{names[0]}+{digest}")
    _unlink(paths, spool_root)
    return len(records)


def _unlink(paths: Sequence[Path], spool_root: Path) -> None:
    for path in paths:
        path.unlink()
    (spool_root / BEGUN).unlink(missing_ok=True)


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Neighbours together, as long as they hold at most `BATCH_BYTES`."""
    batch: list[Path] = []
    size = 0
    for path in paths:
        more = path.stat().st_size
        if batch and size + more > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += more
    if batch:
        yield batch


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
