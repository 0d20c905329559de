"""One HTTP request at the edge: what the client sent, and how it is answered."""

import asyncio
import http
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from fungible.config import KeySettings
from fungible.contract.ids import new_id
from fungible.errors import ClientGoneError, FungibleError, LimitError, RequestError, UpstreamError
from fungible.wire.formats import FORMATS

HeaderList = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
# Bytes of a body that wait before anybody asked for it; then the client waits.
READ_AHEAD = 65_536
_OURS = b"x-fungible-"
_STATUS_LINES = {
    one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in http.HTTPStatus
}
# RFC 9112, section 7.1.
CHUNK, _END = b"%x\r\n%b\r\n", b"0\r\n\r\n"
_WITHOUT_BODY = (204, 304)
_NO_KEY = KeySettings(hash="")


class Line(Protocol):
    """The connection that a call came on."""

    def send(self, data: bytes) -> bool:
        """Write; nothing, if the client is gone. Whether it reads too slowly."""
        ...

    def date_line(self) -> bytes:
        """The `date` header as a line, or nothing."""
        ...

    def pause(self) -> None:
        """Read no more for now."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        ...

    def answered(self, call: "Call") -> None:
        """An answer is complete."""
        ...


class Call:
    """A request under way, and its answer.

    Args:
        method: Such as `POST`.
        path: Decoded, without the query.
        headers: By lower-case name.
        version: Of HTTP; a client of 1.0 gets no chunks.
        keep_alive: Whether the connection may take another request afterwards.

    Attributes:
        line: Where it came from.
        chunked: Whether pieces of an answer are sent as chunks.
        request_id: Ours; every answer carries it.
        key: Settings of the key it came with, named `key_name`.
        format: How errors are said here: the endpoint's own format.
        more_headers: What the head of any answer says besides.
        status: What the head of the answer said; 0 before it was sent.
        complete: Whether the whole request has arrived.
        ended: Whether the whole answer was sent.
        gone: Whether the client has left.
        on_left: Called when it does.
        task: Who answers.
    """

    __slots__ = (
        "_limit",
        "_parts",
        "_problem",
        "_size",
        "_waiter",
        "awaits_100",
        "chunked",
        "complete",
        "ended",
        "format",
        "gone",
        "headers",
        "keep_alive",
        "key",
        "key_name",
        "line",
        "method",
        "more_headers",
        "on_left",
        "path",
        "request_id",
        "status",
        "task",
    )

    def __init__(
        self,
        line: Line,
        method: str,
        path: str,
        headers: HeaderList,
        *,
        version: str = "1.1",
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.keep_alive = keep_alive and version != "1.0"
        self.awaits_100 = False
        self.request_id = new_id("req_")
        self.key_name = ""
        self.key = _NO_KEY
        self.format = FORMATS["chat/completions"]
        self.more_headers: Mapping[str, str] = {}
        self.status = 0
        self.complete = self.ended = self.gone = False
        self.on_left: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.line = line
        self.chunked = version != "1.0"
        self._parts: list[bytes] = []
        self._size = 0
        self._limit: int | None = None
        self._problem: FungibleError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- what the connection tells

    def received(self, part: bytes) -> None:
        """More of the body; once there is an answer, nobody wants it."""
        if self.ended:
            return
        self._size += len(part)
        if self._limit is None:
            self._parts.append(part)
            if self._size > READ_AHEAD:
                self.line.pause()
        elif self._size > self._limit:
            self._parts.clear()
            self._wake()
        else:
            self._parts.append(part)

    def received_all(self) -> None:
        """The end of the body."""
        self.complete = True
        self._wake()

    def malformed(self) -> None:
        """What came is not HTTP, so the rest of the body never will."""
        self.keep_alive = False
        self._problem = RequestError("the request's body is not valid HTTP/1.1")
        self._wake()

    def late(self) -> None:
        """The rest of the body takes too long."""
        self._problem = RequestError("the request's body did not arrive in time")
        self._problem.status = 408
        self._wake()

    def left(self) -> None:
        """The client is gone."""
        self.gone = True
        self._problem = self._problem or ClientGoneError(
            "the client left before its request was complete"
        )
        self._wake()
        if self.on_left is not None:
            self.on_left()

    # -- what was asked

    def header(self, name: bytes) -> str | None:
        """The first header of that lower-case name."""
        for key, value in self.headers:
            if key == name:
                return str(value, "latin-1")
        return None

    def own_headers(self) -> Mapping[str, str]:
        """Headers that begin with `x-fungible-`, by name."""
        return {
            str(key, "latin-1"): str(value, "latin-1")
            for key, value in self.headers
            if key.startswith(_OURS)
        }

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            RequestError: It is larger than `limit` bytes, or breaks off in something else.
            ClientGoneError: The client left.
        """
        self._limit = limit
        if not self.complete:
            if self.awaits_100:
                self.line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.line.resume()
        while not self.complete and self._size <= limit:
            if self._problem is not None:
                raise self._problem
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._size > limit:
            raise _too_large(limit)
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- how it is answered

    @property
    def started(self) -> bool:
        """Whether the head of an answer was sent."""
        return self.status != 0

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        await self.line.drained()

    def start(self, status: int, headers: HeaderList, first: bytes = b"") -> None:
        """Send the head of an answer that comes in pieces, and the first of them if it is here."""
        if self.chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            self.keep_alive = False  # its end is the connection's
        head = self._head(status, headers)
        self.status = status
        if first:
            head += CHUNK % (len(first), first) if self.chunked else first
        self.line.send(head)

    def write(self, piece: bytes) -> bool:
        """One piece, as a chunk. Whether the client reads too slowly."""
        return self.line.send(CHUNK % (len(piece), piece) if self.chunked else piece)

    def end(self, last: bytes) -> None:
        """The last piece, or none if it is empty."""
        if self.chunked:
            last = CHUNK % (len(last), last) + _END if last else _END
        self.line.send(last)
        self._over()

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a whole answer."""
        headers.append((b"content-length", b"%d" % len(body)))
        head = self._head(status, headers)
        self.status = status
        if self.method == "HEAD" or status in _WITHOUT_BODY:
            body = b""
        self.line.send(head + body)
        self._over()

    def json(self, value: Any, status: int = 200) -> None:  # noqa: ANN401  # what JSON holds
        """Send a whole answer of JSON."""
        self.respond(status, [JSON_TYPE], msgspec.json.encode(value))

    def fail(self, error: FungibleError, number: int = 0) -> None:
        """Say what went wrong, in the endpoint's format; `number` is that of a stream's event."""
        if self.ended:
            return
        if self.started:
            self.end(self.format.error_event(error, number))
            return
        headers: HeaderList = [JSON_TYPE]
        rest = error.retry_after_s if isinstance(error, UpstreamError) else None
        if rest is not None:
            headers.append((b"retry-after", f"{rest:g}".encode()))
        if isinstance(error, LimitError):
            headers += _encoded(error.headers)
        body = msgspec.json.encode(self.format.error_body(error))
        self.respond(error.status, headers, body)

    def _head(self, status: int, headers: HeaderList) -> bytes:
        """The head, with the request's id in it.

        Raises:
            ValueError: A header would end its line.
        """
        headers = [(b"x-fungible-request-id", self.request_id.encode()), *headers]
        if self.more_headers:
            headers += _encoded(self.more_headers)
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        lines = b"".join([b"%b: %b\r\n" % one for one in headers])
        if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or 0 in lines:
            raise ValueError("a header of the answer holds a line break")
        return b"%b%b%b\r\n" % (_STATUS_LINES[status], self.line.date_line(), lines)

    def _over(self) -> None:
        self.ended = True
        self._parts.clear()
        self.line.answered(self)


def _encoded(headers: Mapping[str, str]) -> HeaderList:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _too_large(limit: int) -> RequestError:
    error = RequestError(f"the request body is larger than {limit} bytes")
    error.status = 413
    return error
