"""Real Postgres and Redis servers for tests: on loopback, in a folder each, ended by pid."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A server's DSN; the test is skipped where `redis-server` is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--port", str(port), "--dir", folder, *options]
        dsn = f"redis://127.0.0.1:{port}/0"
        with _running(command, None, folder, lambda: redis.Redis.from_url(dsn).ping()):
            yield dsn


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """A server's DSN; the test is skipped where Postgres is not installed."""
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("postgres is not installed (Debian: apt-get install postgresql)")
    port, user = free_port(), _ordinary_user()
    folder = Path(tempfile.mkdtemp(prefix="fungible-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        initdb = [str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "fungible"]
        subprocess.run(
            [*initdb, "-N"], check=True, user=user, stdout=subprocess.DEVNULL, cwd=folder
        )
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-F"]
        command += ["-h", "127.0.0.1", "-k", ""]
        dsn = f"postgresql://fungible@127.0.0.1:{port}/postgres"
        with _running(command, user, folder, lambda: psycopg.connect(dsn).close()):
            yield dsn
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@contextlib.contextmanager
def _running(
    command: list[str], user: str | None, folder: str | Path, asks: Callable[[], object]
) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(redis.RedisError, psycopg.Error):
                    asks()
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise AssertionError(log.read().decode(errors="replace"))
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _postgres_binaries() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def _ordinary_user() -> str | None:
    """Postgres refuses to run as root: then as the user that its package made."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("postgres does not run as root, and there is no user postgres")
