"""Real server processes for tests: started, waited for, and ended by pid."""

import http.client
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

FUNGIBLE = [sys.executable, "-m", "fungible"]
# Ends with us, however we end.
SUPERVISED = [sys.executable, "-m", "fungible.cli.supervised"]


class Server:
    """One `fungible … serve`, with our end of its stdin, as a context manager."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = list(arguments)
        self.url = ""

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*SUPERVISED, *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.arguments} ended with {self.process.wait()} before it was ready"
        self.url = json.loads(line)["url"]

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return code


def ask(
    url: str, method: str, path: str, body: object = None, *, token: str = ""
) -> tuple[int, Any]:
    """One HTTP exchange: status and decoded JSON."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=30)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
    try:
        connection.request(method, path, body=data, headers=headers)
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    return response.status, json.loads(raw) if raw else None


def chat(gateway: str, count: int, model: str = "assistant") -> list[int]:
    """The statuses of `count` chat completions, a few at a time."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}

    def one(number: int) -> int:
        return ask(gateway, "POST", "/v1/chat/completions", {**body, "user": str(number)})[0]

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, range(count)))


def processes_of(home: Path) -> list[int]:
    """Running processes that name `home` on their command line; this one aside."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if str(home) in " ".join(process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and process.pid != os.getpid()
    ]
