"""The load: wrk for whole answers, a lean client of our own for streams and latencies."""

import asyncio
import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CONNECTIONS = 32
_LUA = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
done = function(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format('{{"requests":%d,"failed":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f}}\\n',
    summary.requests, bad, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


class LoadError(Exception):
    """A load could not be made, or was not answered as it should be."""


@dataclass
class Done:
    """What came back. Times in ms from the moment a request was due.

    Attributes:
        late: Requests that were due while every connection was taken, so sent when one was free.
    """

    requests: int = 0
    failed: int = 0
    late: int = 0
    seconds: float = 0.0
    first_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    said: str = ""


def wrk(
    url: str, body: bytes, headers: Mapping[str, str], seconds: float, home: Path
) -> dict[str, float]:
    """`CONNECTIONS` keep-alive connections that ask as fast as they are answered.

    Raises:
        LoadError: wrk is missing or failed, or a request was not answered with 2xx.
    """
    if shutil.which("wrk") is None:
        raise LoadError("wrk is not installed (Debian: apt-get install wrk)")
    home.mkdir(parents=True, exist_ok=True)
    (home / "body.json").write_bytes(body)
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script = home / "wrk.lua"
    script.write_text(_LUA.format(body=home / "body.json", headers=lines))
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds:g}s",
        "--timeout",
        "30s",
        "-s",
        script,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"wrk: {done.stderr.strip()[:300]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if result["failed"] or not result["requests"]:
        raise LoadError(f"{result['failed']} of {result['requests']} requests failed")
    return result


class _Client(asyncio.Protocol):
    """One connection. Tells its pool when the first event and the end of an answer came."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._tail = b""
        self._got = bytearray()
        self._need = 0
        self._first = True
        self._busy = False
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._pool.idle.append(self)

    def ask(self, due: float) -> None:
        self._due, self._busy, self._first, self._tail, self._need = due, True, True, b"", 0
        self._got.clear()
        self._transport.write(self._pool.request)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._busy = False
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.gone(self, failed=self._busy)

    def data_received(self, data: bytes) -> None:
        if self._first:
            self._begin(data)
        if self._first:
            return  # a head may end like a body does
        if self._need:
            self._need -= len(data)
            if self._need <= 0:
                self._end()
            return
        self._tail = (self._tail + data)[-64:]
        if self._tail.endswith(b"0\r\n\r\n"):
            done = b"[DONE]" in self._tail or not self._pool.stream
            self._end() if done else self._fail(self._tail)

    def _begin(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        if not self._got.startswith(b"HTTP/1.1 200"):
            self._fail(bytes(self._got[:300]))
            return
        if self._pool.stream and len(self._got) == end + 4:
            return  # the first event is what counts, not the head
        self._first = False
        now = time.perf_counter()
        self._pool.done.first_ms.append((now - self._due) * 1000)
        head = bytes(self._got[:end]).lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            # What is here of the body counts; `data` is taken off by the caller.
            self._need = length + end + 4 - len(self._got) + len(data)

    def _end(self) -> None:
        self._busy = False
        now = time.perf_counter()
        self._pool.answered(self, (now - self._due) * 1000)

    def _fail(self, said: bytes) -> None:
        self._pool.done.said = self._pool.done.said or said.decode(errors="replace")
        self.close()
        self._pool.done.failed += 1


class Pool:
    """Connections to one server, all asking the same; at most `limit` of them."""

    def __init__(
        self, url: str, body: bytes, headers: Mapping[str, str], *, stream: bool, limit: int
    ) -> None:
        where = urlsplit(url)
        lines = [f"POST {where.path} HTTP/1.1", f"Host: {where.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        self.request = "\r\n".join(lines).encode() + body
        self.stream = stream
        self.done = Done()
        self.idle: list[_Client] = []
        self._where = (where.hostname or "", where.port or 80)
        self._limit = limit
        self._clients: set[_Client] = set()
        self._closed_loop_until = 0.0
        self._overdue: deque[float] = deque()

    async def open(self, count: int) -> None:
        """Connect so many."""
        loop = asyncio.get_running_loop()
        for at in range(0, count, 100):
            made = await asyncio.gather(
                *(
                    loop.create_connection(lambda: _Client(self), *self._where)
                    for _ in range(min(100, count - at))
                )
            )
            self._clients.update(client for _, client in made)

    def gone(self, client: _Client, *, failed: bool) -> None:
        """A connection ended."""
        self._clients.discard(client)
        self.done.failed += failed
        if client in self.idle:
            self.idle.remove(client)

    def answered(self, client: _Client, ms: float) -> None:
        """An answer is complete; in a closed loop the next one is asked for."""
        self.done.requests += 1
        self.done.total_ms.append(ms)
        now = time.perf_counter()
        if now < self._closed_loop_until:
            client.ask(now)
        elif self._overdue:
            client.ask(self._overdue.popleft())
        else:
            self.idle.append(client)

    async def closed_loop(self, seconds: float) -> Done:
        """Every connection asks again as soon as it is answered; ends when the last one is."""
        began = time.monotonic()
        self._closed_loop_until = time.perf_counter() + seconds
        self.ask_once()
        await asyncio.sleep(seconds)
        await self.settle()
        self.done.seconds = time.monotonic() - began
        return self.done

    def ask_once(self) -> None:
        """One request on every idle connection, now."""
        now = time.perf_counter()
        idle, self.idle = self.idle, []
        for client in idle:
            client.ask(now)

    async def open_loop(self, rate: float, seconds: float) -> Done:
        """`rate` requests a second, evenly spaced, whether or not earlier ones were answered."""
        began = time.perf_counter()
        total = int(rate * seconds)
        sent = 0
        while sent < total:
            due = began + sent / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            while sent < total and began + sent / rate <= time.perf_counter():
                self._ask_or_queue(began + sent / rate)
                sent += 1
            await asyncio.sleep(0)
        await self.settle()
        self.done.failed += len(self._overdue)  # every connection was lost before their turn
        self._overdue.clear()
        self.done.seconds = time.perf_counter() - began
        return self.done

    def _ask_or_queue(self, due: float) -> None:
        """Times count from when it was due, so what waits here is not forgotten."""
        if self.idle:
            self.idle.pop().ask(due)
        else:
            self.done.late += 1
            self._overdue.append(due)

    async def settle(self, patience_s: float = 60.0) -> None:
        """Wait until nothing is under way."""
        async with asyncio.timeout(patience_s):
            while len(self.idle) < len(self._clients):  # noqa: ASYNC110  # ends once
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End every connection."""
        for client in list(self._clients):
            client.close()
        await asyncio.sleep(0.01)
