"""One connection: a request is written, its answer is parsed as it arrives.

One exchange at a time. Reading is paused while nobody takes what has arrived, and a single
timer watches for silence, however many pieces an answer has.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from fungible.http.decoding import decoder_of
from fungible.http.errors import ConnectionBrokenError, MalformedAnswerError
from fungible.http.whole_chunk import MOST_BYTES, framing

MOST_HEADER_BYTES = 64 << 10
PAUSE_ABOVE = 256 << 10


class Connection(asyncio.Protocol):
    """A TCP or TLS connection to one origin.

    Attributes:
        status: Of the answer whose head has arrived.
        headers: Its headers by lower-case name; of repeated ones the last.
        complete: Whether the whole answer has arrived.
        reusable: Whether another request may be written once this answer was read.
    """

    def __init__(self, idle_timeout_s: float) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = True
        self.reusable = True
        self._idle_s = idle_timeout_s
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._head = False
        self._header_bytes = 0
        self._until_close = False
        self._informational = False
        self._surplus = False
        self._chunk_over = self._between_chunks = False
        self._decode: Callable[[bytes], bytes] | None = None
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], None] | None = None
        self._ended: Callable[[], None] | None = None
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # -- what the pool and the reader call

    @property
    def open(self) -> bool:
        """Whether the peer has not closed it."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """Write a whole request; the answer to the one before must have been read."""
        assert self._transport is not None  # noqa: S101  # connected before it is handed out
        self.status, self.headers = 0, {}
        self.complete = self._head = self._until_close = False
        self._chunk_over = self._between_chunks = False
        self._header_bytes = self._held = 0
        self._decode = None
        self._parts.clear()
        self._take = self._ended = None
        self.resume()  # whoever read the answer before did not read all of it
        self._heard_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle_s, self._watch)
        self._transport.write(request)

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            TimeoutError: Nothing came for the idle timeout.
            ConnectionBrokenError: The peer closed the connection.
            MalformedAnswerError: What came is not an answer.
        """
        while not self._head:
            await self._more()

    async def piece(self) -> bytes:
        """What has arrived of the body; empty at its end. Same errors as `head`."""
        while not self._parts:
            if self.complete:
                return b""
            await self._more()
        data = self._parts.popleft() if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        self.resume()
        return data

    def listen(self, take: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """Push the rest of the body instead of letting it be pulled.

        No task wakes up for a piece then, which is what most of a streamed token costs.

        Args:
            take: Called with each piece, in the turn of the loop in which it came. What it
                raises is a failure of the answer.
            ended: Called once, after the last; `failure` says why, if it came too early.
        """
        self._take, self._ended = take, ended
        self._hand_on()
        self.resume()
        if self.complete or self._failure is not None:
            self._end()

    @property
    def failure(self) -> Exception | None:
        """Why the answer will not be complete."""
        return self._failure

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None:
            self._paused = False
            # Silence that we caused is not the peer's.
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    def close(self) -> None:
        """Drop the connection and whatever was under way on it."""
        self.reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._heard_at = self._now()
        if self._between_chunks and self._take is not None and len(data) < MOST_BYTES:
            begins, start = framing(len(data))
            if data.startswith(begins) and data.endswith(b"\r\n"):
                # Nearly always. The parser misses nothing: it waits for a chunk to begin.
                try:
                    self._take(data[start:-2])
                except Exception as error:  # noqa: BLE001  # whoever waits for the end is told
                    self._refuse(error)
                return
        if self.complete:
            self.close()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
            if not self._head:
                self._count(len(data))
            # Not so, if the first digits of another chunk's size are here.
            self._between_chunks = self._chunk_over and data.endswith(b"\r\n")
        except httptools.HttpParserCallbackError as error:
            self._fail(_cause(error))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(MalformedAnswerError(f"the answer is not HTTP/1.1: {error}"))
        if self._parts and self._take is not None:
            self._hand_on()
        if self._waiter is not None or self.complete or self._failure is not None:
            self._wake()

    def eof_received(self) -> bool:
        """The peer says no more; let the transport close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the answer if it had no other, a failure otherwise."""
        self.reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.complete:
            if self._until_close and exc is None:
                self.complete = True
            else:
                reason = f": {exc}" if exc is not None else ""
                self._fail(ConnectionBrokenError(f"the connection was closed{reason}"))
        self._wake()

    # -- httptools

    def on_message_begin(self) -> None:
        """Another answer: if nobody asked for it, neither it nor the connection is used."""
        if self.complete:
            self._surplus = True
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        if self._surplus:
            return
        self._count(len(name) + len(value))
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is here, unless it is an interim answer."""
        status = self._parser.get_status_code()
        if self._surplus:
            return
        if status < 200:
            self._informational = True
            self.headers = {}
            return
        headers = self.headers
        self.status = status
        self._head = True
        self._until_close = not (
            "content-length" in headers
            or "chunked" in headers.get("transfer-encoding", "")
            or status in (204, 304)
        )
        if not self._parser.should_keep_alive() or self._until_close:
            self.reusable = False
        if encoding := headers.get("content-encoding"):
            self._decode = decoder_of(encoding.strip().lower())

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._surplus:
            return
        if self._decode is not None:
            data = self._decode(data)
        self._parts.append(data)
        if self._take is not None:
            return
        self._held += len(data)
        if self._held > PAUSE_ABOVE:
            self.pause()

    def on_chunk_header(self) -> None:
        """A chunk begins; the last one, too."""
        self._chunk_over = False

    def on_chunk_complete(self) -> None:
        """A chunk ends."""
        self._chunk_over = self._decode is None and not self.complete

    def on_message_complete(self) -> None:
        """The end of an answer, or of an interim one."""
        if self._informational:
            self._informational = False
            return
        self.complete = True

    # -- inside

    def _hand_on(self) -> None:
        """What one read holds is one piece, and one write for whoever passes it on."""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if self._take is not None and data:
            try:
                self._take(data)
            except Exception as error:  # noqa: BLE001  # whoever waits for the end is told
                self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """What came was not taken."""
        self._take = _drop
        self._fail(error)
        self._wake()

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > MOST_HEADER_BYTES:
            raise MalformedAnswerError(f"the answer's head exceeds {MOST_HEADER_BYTES} bytes")

    def _watch(self) -> None:
        """The timer: silence for too long is a failure, unless nobody is waiting for anything."""
        self._timer = None
        if self.complete or self._failure is not None:
            return
        left = self._heard_at + self._idle_s - self._loop.time()
        if left > 0 or self._paused:
            self._timer = self._loop.call_later(max(left, 0.05), self._watch)
            return
        self._fail(TimeoutError("nothing came in time"))
        self._wake()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self.close()

    def _end(self) -> None:
        ended, self._take, self._ended = self._ended, None, None
        if ended is not None:
            ended()

    def _wake(self) -> None:
        if self._ended is not None and (self.complete or self._failure is not None):
            self._end()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if self._failure is not None and not self._parts:
                waiter.set_exception(self._failure)
            elif self._parts or self.complete or self._head:
                waiter.set_result(None)


def _drop(data: bytes) -> None:
    """Whoever took it wants no more."""


def _cause(error: httptools.HttpParserCallbackError) -> Exception:
    cause = error.__context__ or error.__cause__
    return cause if isinstance(cause, MalformedAnswerError) else MalformedAnswerError(str(error))
