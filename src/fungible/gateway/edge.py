"""The data port's connections: HTTP/1.1 from a socket to calls and back.

uvicorn starts and stops the server; the connections are ours. Between the bytes of a request
and the gateway there is no ASGI: no scope, no messages, no task that waits for the client to
leave, and one write for a whole answer (docs/design/dependencies.md says what that is worth).

Clients that dribble, send too much, or do not read are given a time and a size: without that
one holds a connection, its buffers and a backend's slot for as long as it likes. One timer a
connection serves all of that; a request that comes and is answered in time does not touch it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, cast
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.config import Config as ServerConfig
from uvicorn.server import ServerState

from fungible.config import GatewaySettings
from fungible.errors import RequestError
from fungible.gateway.call import Call, HeaderList

log = logging.getLogger(__name__)

Serve = Callable[[Call], Coroutine[Any, Any, None]]
# How long a connection may be idle between two requests, seconds.
KEEP_ALIVE_S = 5.0
# `_FRESH`: nothing came yet. `_BETWEEN`: a request has come whole, and no other began.
_FRESH, _HEAD, _BODY, _BETWEEN = range(4)
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def edge_protocol(serve: Serve, settings: GatewaySettings) -> type[asyncio.Protocol]:
    """The protocol of a server: its connections make calls for `serve`.

    Args:
        serve: Answers a call, whatever happens.
        settings: Times and sizes.
    """
    return type("EdgeConnection", (Edge,), {"serve": staticmethod(serve), "settings": settings})


class Edge(asyncio.Protocol):
    """One client's connection. Calls on it are answered one after the other."""

    settings: ClassVar[GatewaySettings]
    dated: ClassVar[tuple[object, bytes]] = (None, b"")

    @staticmethod
    async def serve(call: Call) -> None:
        """Answer a call; see `edge_protocol`."""
        raise NotImplementedError

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        del config, app_state
        self._full = False
        self._server = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # What a client sends after `connection: close` is not answered, but no error either.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: HeaderList = []
        self._reading: Call | None = None
        self._answering: Call | None = None
        self._waiting: deque[Call] = deque()
        self._deaf = self._stopping = self._paused = False
        self._before = self._arriving = 0
        self._phase = self._timed = _FRESH
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._unread: asyncio.TimerHandle | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a first request, not for ever."""
        # uvloop's transports are none of asyncio's classes.
        usable = self._transport = cast("asyncio.Transport", transport)
        usable.set_write_buffer_limits(high=self.settings.write_buffer_bytes)
        self._server.connections.add(self)  # type: ignore[arg-type]
        self._enter(_FRESH)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: whoever answers is told."""
        self._server.connections.discard(self)
        self._transport = None
        self._deaf = True
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self.resume_writing()
        if self._answering is not None:
            self._answering.left()

    def eof_received(self) -> bool:
        """Who says no more does not listen either: HTTP clients half-close by mistake only."""
        return False

    def data_received(self, data: bytes) -> None:
        """Parse what came; answer what is there."""
        if self._deaf:
            return
        self._arriving = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._hear_no_more()  # we speak nothing else, and answer as if it had not asked
        except httptools.HttpParserError as error:
            self._malformed(error)
        if self._waiting and self._answering is None:
            self._answer_next()
        if self._phase == _HEAD:
            self._before += len(data)
            if self._before > self.settings.max_header_bytes:
                self._too_large()
        if self._phase != self._timed:
            self._enter(self._phase)

    def pause_writing(self) -> None:
        """The client reads too slowly: after a time its answer ends, `cancelled`."""
        self._full = True
        if self._unread is None and self._transport is not None:
            wait_s = self.settings.write_timeout_s
            self._unread = self._loop.call_later(wait_s, self._transport.abort)

    def resume_writing(self) -> None:
        """It has read enough."""
        self._full = False
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        waiters, self._drain_waiters = self._drain_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- httptools

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._url, self._headers = b"", []
        self._phase, self._before = _HEAD, 0

    def on_url(self, url: bytes) -> None:
        """Some of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        if self._phase == _HEAD:  # and not after a chunked body, where it would know no bound
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is here: a call, answered as soon as those before it are."""
        if self._deaf:
            return
        most = self.settings.max_header_bytes
        # Added up only where it can matter: what came so far holds the head and more.
        if self._before + self._arriving > most and self._head_bytes() > most:
            self._too_large()
            return
        self._phase = _BODY
        parser = self._parser
        call = Call(
            self,
            parser.get_method().decode("ascii"),
            _path(self._url),
            self._headers,
            version=parser.get_http_version(),
            keep_alive=parser.should_keep_alive(),
        )
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue":
                call.awaits_100 = True
        self._reading = call
        self._waiting.append(call)
        if self._answering is not None or len(self._waiting) > 1:
            self.pause()  # requests that are sent ahead wait on the client's side

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._reading is not None:
            self._reading.received(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        if self._reading is not None:
            self._phase = _BETWEEN
            self._reading.received_all()
            self._reading = None

    # -- what a call asks for

    def send(self, data: bytes) -> bool:
        """Write; nothing, if the client is gone. Whether it reads too slowly."""
        if self._transport is not None:
            self._transport.write(data)
        return self._full

    def date_line(self) -> bytes:
        """The `date` header as a line; the server makes it once a second."""
        headers = self._server.default_headers
        kind = type(self)
        if kind.dated[0] is not headers:
            kind.dated = (headers, b"".join(b"%b: %b\r\n" % one for one in headers))
        return kind.dated[1]

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    async def drained(self) -> None:
        """Wait until the client has read enough, or is gone."""
        if self._full:
            waiter = self._loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter

    def answered(self, call: Call) -> None:
        """An answer is complete: the next call, or wait for one."""
        self._server.total_requests += 1
        if call is self._answering:
            self._answering = None
        if self._transport is None:
            return
        if not call.keep_alive or (self._stopping and not self._waiting):
            self._hear_no_more()
            self._transport.close()
            return
        if self._waiting:
            self._answer_next()
        if len(self._waiting) == 0:
            self.resume()
            self._enter(self._phase)

    def shutdown(self) -> None:
        """The server stops: no request after those that are here."""
        self._stopping = True
        if self._answering is None and not self._waiting and self._transport is not None:
            self._transport.close()

    # -- inside

    def _answer_next(self) -> None:
        call = self._answering = self._waiting.popleft()
        task = call.task = self._loop.create_task(self.serve(call))
        self._server.tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: "asyncio.Task[None]") -> None:
        self._server.tasks.discard(task)
        call = self._answering
        if call is not None and call.task is task:
            # It ended without an answer, as when the server cancels what takes too long to stop.
            self._answering = None
            if self._transport is not None:
                self._transport.abort()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("unexpected failure", exc_info=error)

    def _hear_no_more(self) -> None:
        """Nothing that comes is read any more; what came whole is answered, then it is over."""
        self._deaf = True
        for call in (self._answering, *self._waiting):
            if call is not None:
                call.keep_alive = False

    def _malformed(self, error: Exception) -> None:
        if self._reading is not None:
            self._reading.malformed()
        if self._answering is None and not self._waiting:
            self._refuse(400, f"this is not HTTP/1.1: {error}")
        else:
            self._hear_no_more()

    def _head_bytes(self) -> int:
        return len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _too_large(self) -> None:
        most = self.settings.max_header_bytes
        self._refuse(431, f"the request's head is larger than {most} bytes")

    def _refuse(self, status: int, message: str) -> None:
        """An answer before there is a call; after those that are under way there is none."""
        busy = self._answering is not None or bool(self._waiting)
        self._hear_no_more()
        if busy or self._transport is None:
            return
        body = msgspec.json.encode(RequestError(message).to_openai())
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self._transport.write(head % (status, _REASONS[status]) + length + body)
        self._transport.close()

    # -- time

    def _allowed_s(self) -> float | None:
        """Seconds that this phase may take; `None` for as long as it wants."""
        if self._phase == _BODY:
            return self.settings.body_timeout_s
        if self._phase in (_FRESH, _HEAD):
            return self.settings.header_timeout_s
        return None if self._answering is not None else KEEP_ALIVE_S

    def _enter(self, phase: int) -> None:
        self._timed = phase
        self._since = self._loop.time()
        allowed_s = self._allowed_s()
        if allowed_s is not None and not (
            self._timer is not None and self._timer_at <= self._since + allowed_s
        ):
            self._wake_in(allowed_s)

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """The timer: it was set for an earlier phase, maybe, so it may have to be set again."""
        self._timer = None
        allowed_s = self._allowed_s()
        if allowed_s is None or self._transport is None:
            return
        left = self._since + allowed_s - self._loop.time()
        if left > 0:
            self._wake_in(left)
        else:
            self._too_slow()

    def _too_slow(self) -> None:
        assert self._transport is not None  # noqa: S101  # `_look` saw it
        call = self._reading
        if self._phase == _HEAD:
            self._refuse(408, "the request's head did not arrive in time")
        elif self._phase == _BODY and call is not None and not call.started:
            call.late()
            self._hear_no_more()
        else:
            self._transport.close()


def _path(url: bytes) -> str:
    """The path of a request's target, decoded.

    Raises:
        HttpParserInvalidURLError: It is none.
    """
    if not url.startswith(b"/"):
        url = httptools.parse_url(url).path or b""
    path = url.partition(b"?")[0].decode("ascii", "replace")
    return unquote(path) if "%" in path else path
