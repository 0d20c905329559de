"""What every import command does around its own work: a spool to write to, a ledger at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fungible.config import Config
from fungible.errors import InputError
from fungible.ledger.access import Access, open_access
from fungible.ledger.spool import SpoolWriter


@contextmanager
def importing(
    config: Config, then: Callable[[Access], object] | None = None
) -> Iterator[tuple[Access, SpoolWriter]]:
    """The ledger, open once, and the spool of imports; what was written is in the ledger after.

    Args:
        config: Says where both are.
        then: What to ask the ledger when all of it is there.
    """
    access = open_access(config)
    try:
        spool = SpoolWriter(config.spool_path(), "ingest", max_bytes=config.ledger.max_spool_bytes)
        try:
            yield access, spool
        finally:
            spool.close()
            access.refresh()
        if then is not None:
            then(access)
    finally:
        access.close()


def imported_before(access: Access, stream: str, digest: str) -> bool:
    """Whether a source of this digest was taken by the stream."""
    rows = access.query(
        "SELECT count() FROM imports WHERE stream = {stream:String} AND digest = {digest:String}",
        {"stream": stream, "digest": digest},
    )
    return bool(rows.rows[0][0])


def read_file(path: Path) -> bytes:
    """A whole file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
