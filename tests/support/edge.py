"""Asks a gateway in this process over the connections that it really has, without a socket."""

import asyncio

import httptools
import msgspec
from uvicorn.config import Config as ServerConfig
from uvicorn.server import ServerState

from fungible.config import GatewaySettings
from fungible.gateway.edge import Edge, Serve, edge_protocol
from support.answered import Answered


class MemoryTransport(asyncio.Transport):
    """What a connection writes, kept; `lost` when it closes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.protocol: Edge | None = None
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.lose)

    def abort(self) -> None:
        self.close()

    def lose(self) -> None:
        self._closing = True
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low


def connect(
    serve: Serve, settings: GatewaySettings | None = None, server: ServerState | None = None
) -> tuple[Edge, MemoryTransport]:
    """A connection that was just made."""
    kind = edge_protocol(serve, settings or GatewaySettings())
    config = ServerConfig(_nothing, lifespan="off")
    edge: Edge = kind(config, server or ServerState(), {}, asyncio.get_running_loop())  # type: ignore[call-arg,assignment]
    transport = transport_of(edge)
    return edge, transport


def transport_of(edge: Edge) -> MemoryTransport:
    transport = MemoryTransport()
    transport.protocol = edge
    edge.connection_made(transport)
    return transport


async def _nothing(*_: object) -> None:
    raise NotImplementedError


class Asked(Answered):
    """One HTTP request under way, on a connection of its own."""

    def __init__(
        self,
        serve: Serve,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._done = asyncio.Event()
        self._parser = httptools.HttpResponseParser(self)
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        given = {"content-type": "application/json", "content-length": str(len(data))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in (given | (headers or {})).items())
        self._server = ServerState()
        self.edge, self._transport = connect(serve, server=self._server)
        self._transport.write = self._written  # type: ignore[method-assign]
        self.edge.data_received(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data)

    def leave(self) -> None:
        """The client closes its connection."""
        self._transport.lose()

    async def done(self) -> "Asked":
        """Wait for the end of the response, and of whoever gave it."""
        async with asyncio.timeout(20):
            if self._transport.protocol is not None:
                await self._done.wait()
            while self._server.tasks:
                await asyncio.wait(self._server.tasks)
        return self

    def _written(self, data: bytes | bytearray | memoryview) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        self._done.set()
