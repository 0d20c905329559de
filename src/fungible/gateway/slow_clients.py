"""Clients that dribble, send too much, or do not read: each is given a time and a size.

Without this a client holds a connection, its buffers and a backend's slot for as long as it
likes. uvicorn's HTTP protocol is extended, not replaced; a request whose head comes in one
piece and whose answer is read as it comes arms no timer.
"""

import asyncio

import msgspec
from uvicorn.config import Config as ServerConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fungible.config import GatewaySettings
from fungible.errors import RequestError
from fungible.gateway.writer import GatewayProtocol

_IDLE, _HEAD, _BODY = range(3)
_REASONS = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def patient_protocol(settings: GatewaySettings) -> type[HttpToolsProtocol]:
    """The server's protocol with the times and sizes of a configuration."""
    return type("PatientProtocol", (_PatientProtocol,), {"settings": settings})


class _PatientProtocol(GatewayProtocol):
    settings: GatewaySettings

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._phase = _IDLE
        self._before = 0
        self._arriving = 0
        self._refused = False
        self._reading: asyncio.TimerHandle | None = None
        self._timed = _IDLE
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=self.settings.write_buffer_bytes)
        self._arm(_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._arriving = len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if self._phase == _HEAD:
            self._before += len(data)
            if self._before > self.settings.max_header_bytes:
                self._too_large()
                return
        if self._phase != self._timed:
            self._arm(self._phase)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase, self._before = _HEAD, 0

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        most = self.settings.max_header_bytes
        # Added up only where it can matter: what came so far holds the head and more.
        if self._before + self._arriving > most and self._head_bytes() > most:
            self._too_large()
            return
        self._phase = _BODY
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            self._phase = _IDLE
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._phase == _BODY:
            # Answered without reading all of the request: what is left of it has no reader.
            self._disarm()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.settings.write_timeout_s, self._unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _arm(self, phase: int) -> None:
        self._disarm()
        self._timed = phase
        settings = self.settings
        if phase != _IDLE:
            wait_s = settings.header_timeout_s if phase == _HEAD else settings.body_timeout_s
            self._reading = self.loop.call_later(wait_s, self._too_slow, phase)

    def _disarm(self) -> None:
        self._timed = _IDLE
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _too_large(self) -> None:
        most = self.settings.max_header_bytes
        self._refuse(431, f"the request's head is larger than {most} bytes")

    def _too_slow(self, phase: int) -> None:
        if phase == _BODY and self._phase == _BODY and not self.cycle.response_started:
            self._refuse(408, "the request's body did not arrive in time")
        elif phase == _HEAD and self._phase == _HEAD:
            self._refuse(408, "the request's head did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self._refused = True
        self._disarm()
        body = msgspec.json.encode(RequestError(message).to_openai())
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(head % (status, _REASONS[status]) + length + body)
        self.transport.close()

    def _unread(self) -> None:
        """The client reads too slowly: its answer ends here, and its row says `cancelled`."""
        self.transport.abort()
