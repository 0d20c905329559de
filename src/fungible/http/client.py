"""A pool of connections, by origin, and the answers that they carry.

No redirects, cookies, proxies or retries: whoever sends a prompt decides what a failure means.
"""

import asyncio
import functools
import ssl
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from fungible.http.connection import Connection
from fungible.http.errors import NotConnectedError

KEEP_S = 30.0
# How long the end of a message may take after all that mattered of it.
LINGER_S = 1.0
Origin = tuple[str, int, bool]
_GET = b"GET %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n"
_POST = _GET.replace(b"GET", b"POST") + b"content-length: %d\r\n"


class Answer:
    """One answer whose head has arrived. Whoever got it must `close` it."""

    def __init__(self, client: "Client", origin: Origin, connection: Connection) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self._client = client
        self._origin = origin
        self._connection: Connection | None = connection

    async def piece(self) -> bytes:
        """What has arrived of the body since the last call, at least one byte; empty at its end.

        Raises:
            TimeoutError: Nothing came for the idle timeout.
            OSError: The connection broke, or what came is malformed; see `http.errors`.
        """
        if self._connection is None:
            return b""
        data = await self._connection.piece()
        while not data and not self._connection.complete:
            data = await self._connection.piece()  # a compressed piece may decode to nothing yet
        return data

    async def read(self, limit: int) -> bytes:
        """The rest of the body, or what exceeds `limit` bytes for the first time.

        Same errors as `piece`.
        """
        parts, size = [], 0
        while size <= limit and (data := await self.piece()):
            parts.append(data)
            size += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def push(self, take: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Push the rest of the body to `take` as it arrives, instead of `piece` by piece.

        The future is done at the end; it fails as `piece` would, or as `take` did. `close`
        ends it, too. Whoever cancels it must `close`, and may get pieces until then.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        connection = self._connection
        if connection is None:
            done.set_result(None)
            return done

        def ended() -> None:
            if done.done():
                return
            if connection.failure is not None:
                done.set_exception(connection.failure)
            else:
                done.set_result(None)

        connection.listen(take, ended)
        return done

    def pause(self) -> None:
        """Take no more from the connection for now."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Take on."""
        if self._connection is not None:
            self._connection.resume()

    def close(self) -> None:
        """Give the connection back if the answer was read, drop it otherwise."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.give_back(self._origin, connection)

    def finish(self) -> None:
        """`close`, for an answer of which all that matters was read: its end may still come.

        Most servers of streams send the end of the message in a packet of its own, after their
        last event. Closing there would cost every stream a new connection.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.linger(self._origin, connection)


class Client:
    """Connections to any number of origins; as many as are needed at once.

    Args:
        connect_timeout_s: For TCP and TLS together.
        idle_timeout_s: Longest silence of a peer that owes us bytes.
    """

    def __init__(self, *, connect_timeout_s: float, idle_timeout_s: float) -> None:
        self._connect_s = connect_timeout_s
        self._idle_s = idle_timeout_s
        self._kept: dict[Origin, list[tuple[Connection, float]]] = {}
        self._under_way: set[Connection] = set()
        self._closed = False

    async def post(self, url: str, headers: bytes, body: bytes) -> Answer:
        """Send, and wait for the head of the answer.

        Args:
            url: Encoded already; `http` or `https`.
            headers: Header lines, each ended by CRLF, without `Host` and `Content-Length`.
            body: As it is.

        Raises:
            TimeoutError: No answer in time; `NotConnectedError`: not even a connection.
            OSError: The connection could not be made or broke; see `http.errors`.
        """
        origin, path, host = _split(url)
        head = (
            b"POST %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\ncontent-length: %d\r\n"
        )
        request = head % (path, host, len(body)) + headers + b"\r\n" + body
        return await self._exchange(origin, request)

    async def get(self, url: str, headers: bytes) -> Answer:
        """The same without a body."""
        origin, path, host = _split(url)
        return await self._exchange(origin, _GET % (path, host) + headers + b"\r\n")

    async def _exchange(self, origin: Origin, request: bytes) -> Answer:
        connection = self._idle(origin) or await self._connect(origin)
        self._under_way.add(connection)
        try:
            connection.send(request)
            await connection.head()
        except BaseException:
            self._under_way.discard(connection)
            connection.close()
            raise
        return Answer(self, origin, connection)

    def _idle(self, origin: Origin) -> Connection | None:
        kept = self._kept.get(origin)
        while kept:
            connection, since = kept.pop()
            if connection.open and time.monotonic() - since < KEEP_S:
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        host, port, secure = origin
        loop = asyncio.get_running_loop()
        context = _tls() if secure else None
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._idle_s),
                    host,
                    port,
                    ssl=context,
                    server_hostname=host if secure else None,
                )
        except TimeoutError as error:
            raise NotConnectedError(f"no connection within {self._connect_s:g} s") from error
        return connection

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keep it for the next request, if its answer was read and its peer will take another."""
        self._under_way.discard(connection)
        if self._closed or not (connection.complete and connection.reusable and connection.open):
            connection.close()
            return
        self._kept.setdefault(origin, []).append((connection, time.monotonic()))

    def linger(self, origin: Origin, connection: Connection) -> None:
        """Give it back when its answer has ended, if that is soon."""
        if connection.complete or not connection.open:
            self.give_back(origin, connection)
            return
        timer = asyncio.get_running_loop().call_later(LINGER_S, connection.close)

        def ended() -> None:
            timer.cancel()
            self.give_back(origin, connection)

        connection.listen(_drop, ended)

    async def close(self) -> None:
        """Drop every connection."""
        self._closed = True
        for kept in self._kept.values():
            for connection, _ in kept:
                connection.close()
        for connection in list(self._under_way):
            connection.close()
        self._kept.clear()
        await asyncio.sleep(0)  # transports close in the loop's next turn


def _drop(piece: bytes) -> None:
    """Nobody wants it."""


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as `post` takes them.

    Raises:
        ValueError: A name or a value would end its line.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header holds a line break")
    return lines.encode("latin-1")


@functools.lru_cache(maxsize=1024)
def _split(url: str) -> tuple[Origin, bytes, bytes]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if parts.hostname is None or parts.scheme not in ("http", "https"):
        raise OSError(f"not an http(s) address: {url}")
    port = parts.port or (443 if secure else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    if not (path + host).isascii():
        raise OSError(f"not an encoded address: {url}")
    return (parts.hostname, port, secure), path.encode(), host.encode()


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
