"""A TCP server that answers each request with bytes as given, in pieces as given."""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from types import TracebackType

Step = bytes | float | None


class RawServer:
    """Reads a request, then follows its script: bytes are sent, a number is slept, `None` resets.

    Attributes:
        script: What is done for each request; the connection is closed at the end of it if
            `close` is set.
        requests: Every request's bytes, as read.
        connections: How many were opened.
    """

    def __init__(
        self, script: Sequence[Step], *, close: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        self.script = list(script)
        self.close = close
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self._port}"

    async def __aenter__(self) -> "RawServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        while self._open:  # noqa: ASYNC110  # scripts may still sleep
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()
        self._open.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        _, _, rest = head.lower().partition(b"content-length: ")
        length = int(rest.split(b"\r\n")[0]) if rest else 0
        self.requests.append(head + await reader.readexactly(length))
        for step in self.script:
            if step is None:
                writer.transport.abort()
                return False
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                await self._pause(step, reader)
        return not self.close

    async def _pause(self, seconds: float, reader: asyncio.StreamReader) -> None:
        """Sleep, unless the client leaves."""
        if not seconds:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            if not await asyncio.wait_for(reader.read(1), seconds):
                self.gone.set()
                raise ConnectionResetError
