"""One owner at a time: a lock file that the kernel frees when its holder is gone."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fungible.errors import DiskError, UnavailableError


@contextmanager
def only_one(path: Path, what: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `path` locked, waiting at most `wait_s` for another process to let go.

    The lock is not inherited by children, and the file stays: its text is the holder's pid.

    Raises:
        UnavailableError: Another process holds it; names `what` and its pid.
        DiskError: The lock file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise DiskError(f"{path}: cannot write: {error.strerror}") from error
    try:
        _acquire(fd, path, what, wait_s)
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, path: Path, what: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UnavailableError(
                f"{what} runs already in {path.parent.parent} (pid {holder})",
                hint="stop it first, or choose another home",
            ) from None
        return
