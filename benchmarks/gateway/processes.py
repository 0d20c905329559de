"""Server processes of a measurement: started, watched for CPU and memory, ended by their id."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

START_S, _END_S = 90.0, 15.0


class StartError(Exception):
    """A server did not start; says what its last words were."""


class Server:
    """One process with all of its children."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.said: dict[str, Any] = {}

    def members(self) -> list[psutil.Process]:
        """The process and its descendants, as they are now."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """User plus system time in seconds of all of them, ended children included."""
        total = 0.0
        for member in self.members():
            with contextlib.suppress(psutil.Error):
                times = member.cpu_times()
                total += times.user + times.system
                total += times.children_user + times.children_system
        return total

    def rss_mb(self) -> float:
        """Resident memory of all of them in MB."""
        total = 0
        for member in self.members():
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
        return total / 1e6

    def last_words(self) -> str:
        """The end of what it logged."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])[-400:] or "it said nothing"


@contextlib.contextmanager
def running(
    command: Sequence[str | os.PathLike[str]],
    log: Path,
    *,
    port: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Server]:
    """A server, ready: it printed one line of JSON, or (with `port`) accepts connections.

    Raises:
        StartError: It ended, or was not ready in time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=errors if port else subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    server = Server(process, log)
    try:
        if port:
            _wait_for_port(server, port)
        else:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise StartError(f"{command[0]}: {server.last_words()}")
            server.said = json.loads(line)
        yield server
    finally:
        _end(server)


def raise_files(wanted: int) -> None:
    """Let this process, and those it starts from now on, open so many files.

    Raises:
        StartError: The hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard < wanted and hard != resource.RLIM_INFINITY:
        raise StartError(f"{wanted} open files are needed, the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for_port(server: Server, port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise StartError(f"not ready: {server.last_words()}")


def _end(server: Server) -> None:
    members = server.members()
    with contextlib.suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(_END_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    for member in members:
        with contextlib.suppress(psutil.Error):
            if member.is_running():
                member.kill()
    if server.process.stdout is not None:
        server.process.stdout.close()
