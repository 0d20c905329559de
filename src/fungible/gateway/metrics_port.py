"""`GET /metrics` on a port of its own: what all workers of a gateway counted.

The data port is for whoever has a key, and no customer's key opens an operator's view. Workers
share the data port, so a scraper could not choose one: each leaves what it counted in a file
once a second, and the first worker answers for all of them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from fungible.config import Config
from fungible.contract.exposition import CONTENT_TYPE
from fungible.errors import UnavailableError
from fungible.gateway.metrics import Family, Meter, page, spool_waiting
from fungible.gateway.watch import RouteWatcher
from fungible.routing.dispatch import Dispatcher

WRITE_S = 1.0
# A worker that wrote nothing for so long is gone, and what it counted with it.
STALE_S = 10.0
_REQUEST_S, _REQUEST_BYTES = 5.0, 16_384
_FAMILIES = msgspec.json.Decoder(list[Family])


class MetricsPort:
    """Counts of this process, and of its siblings where it is the first.

    Args:
        worker: This process's name: `gateway`, or `gateway-0`, `gateway-1` …
    """

    def __init__(
        self, config: Config, worker: str, dispatcher: Dispatcher, routes: RouteWatcher
    ) -> None:
        self.meter = Meter(worker, dispatcher)
        self._settings = config.gateway
        self._folder = config.home_path() / "run" / "metrics"
        self._worker = worker
        self._dispatcher = dispatcher
        self._routes = routes

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve, or let a sibling serve; nothing at all without `metrics_port`."""
        if self._settings.metrics_port is None:
            yield
            return
        alone_or_first = self._worker in ("gateway", "gateway-0")
        server = await self._listen() if alone_or_first else None
        writing = asyncio.create_task(self._write_on()) if self._worker != "gateway" else None
        try:
            yield
        finally:
            if writing is not None:
                writing.cancel()
                self._path(self._worker).unlink(missing_ok=True)
            if server is not None:
                server.close()

    def page(self) -> bytes:
        """The whole page."""
        families = self.meter.families(self._routes.table.version)
        for path in sorted(self._folder.glob("gateway-*.json")) if self._shared else ():
            if path != self._path(self._worker):
                families += _read(path)
        return page([*families, spool_waiting(self._dispatcher)])

    @property
    def _shared(self) -> bool:
        return self._worker != "gateway"

    def _path(self, worker: str) -> Path:
        return self._folder / f"{worker}.json"

    async def _write_on(self) -> None:
        path = self._path(self._worker)
        fresh = path.with_suffix(".new")
        while True:
            data = msgspec.json.encode(self.meter.families(self._routes.table.version))
            with contextlib.suppress(OSError):  # a full disk costs metrics, not requests
                self._folder.mkdir(parents=True, exist_ok=True)
                fresh.write_bytes(data)
                fresh.rename(path)
            await asyncio.sleep(WRITE_S)

    async def _listen(self) -> asyncio.Server:
        host, port = self._settings.metrics_host, self._settings.metrics_port
        try:
            return await asyncio.start_server(self._answer, host, port, limit=_REQUEST_BYTES)
        except OSError as error:
            raise UnavailableError(
                f"gateway.metrics_port: cannot listen on {host}:{port}: {error.strerror}"
            ) from error

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answered(head))
                await writer.drain()
        writer.close()

    def _answered(self, head: bytes) -> bytes:
        method, path, *_ = (*head.split(b"\r\n", 1)[0].split(b" "), b"", b"")
        if path.partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", b"this port has /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"GET or HEAD\n", "allow: GET, HEAD\r\n")
        whole = _response("200 OK", self.page())
        return whole if method == b"GET" else whole[: whole.index(b"\r\n\r\n") + 4]


def _response(status: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n"
        f"connection: close\r\n{more}\r\n"
    )
    return head.encode() + body


def _read(path: Path) -> list[Family]:
    """What a sibling counted, unless it is gone."""
    try:
        if time.time() - path.stat().st_mtime > STALE_S:
            return []
        return _FAMILIES.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return []
