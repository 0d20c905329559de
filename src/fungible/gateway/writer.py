"""Writes the events of a stream straight to the client's connection.

ASGI's `send` is a coroutine for each piece. A server that runs on `GatewayProtocol` hands its
applications a `Writer` as well, which writes in the turn of the loop in which a piece came.
"""

from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION = "fungible.writer"


class Writer:
    """The body of one streamed response, after its head and before its last piece."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def direct(self) -> bool:
        """Whether the response is chunked, which a stream to an HTTP/1.1 client is."""
        return bool(self._cycle.chunked_encoding)

    @property
    def full(self) -> bool:
        """Whether the client reads more slowly than the answer comes."""
        return self._cycle.flow.write_paused

    def write(self, events: bytes) -> None:
        """One chunk (RFC 9112, section 7.1). Nothing, if the client is gone."""
        if not self._cycle.disconnected:
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(events), events))

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        await self._cycle.flow.drain()


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a `Writer` in the scope's extensions."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401
        scope: Scope = cycle.scope  # type: ignore[assignment]
        scope.setdefault("extensions", {})[EXTENSION] = Writer(cycle)
        super()._start_asgi_task(cycle, app)
