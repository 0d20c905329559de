"""Files that other processes read while we write them: always whole, old or new."""

import os
from pathlib import Path

from fungible.errors import DiskError


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`; after a crash it holds the old bytes or the new ones.

    Raises:
        DiskError: The disk is full or refuses; the old file is untouched.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(hidden, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        hidden.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise DiskError(
            f"{path}: cannot write: {error.strerror}", hint="free disk space or fix permissions"
        ) from error
