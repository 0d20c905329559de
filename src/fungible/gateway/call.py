"""One HTTP request at the edge: what the client sent, and how it is answered."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from fungible.config import KeySettings
from fungible.contract.ids import new_id
from fungible.errors import ClientGoneError, FungibleError, LimitError, RequestError, UpstreamError
from fungible.gateway.writer import EXTENSION, Writer
from fungible.wire.formats import FORMATS, WireFormat

HeaderList = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
_OURS = b"x-fungible-"


class Call:
    """A request under way.

    Attributes:
        request_id: Ours; every answer carries it.
        key: Settings of the key it came with, named `key_name`.
        format: How errors are said here: the endpoint's own format.
        more_headers: What the head of any answer says besides.
        writer: The client's connection, where the server gives it.
        started: Whether the head of an answer was sent.
        status: What that head said; 0 before.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, wire: WireFormat | None) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.request_id = new_id("req_")
        self.key_name = ""
        self.key = KeySettings(hash="")
        self.format = wire or FORMATS["chat/completions"]
        self.started = False
        self.status = 0
        self.more_headers: Mapping[str, str] = {}
        self.writer: Writer | None = scope.get("extensions", {}).get(EXTENSION)

    def header(self, name: bytes) -> str | None:
        """The first header of that lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    def own_headers(self) -> Mapping[str, str]:
        """Headers that begin with `x-fungible-`, by name."""
        return {
            str(key, "latin-1"): str(value, "latin-1")
            for key, value in self.scope["headers"]
            if key.startswith(_OURS)
        }

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            RequestError: It is larger than `limit` bytes.
            ClientGoneError: The client left.
        """
        message = await self.receive()
        if not message.get("more_body") and message["type"] == "http.request":
            whole: bytes = message.get("body", b"")
            if len(whole) > limit:
                raise _too_large(limit)
            return whole
        parts, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGoneError("the client left before its request was complete")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self.receive()

    async def start(self, status: int, headers: HeaderList) -> None:
        """Send the head of the answer, with the request's id in it."""
        self.started = True
        self.status = status
        headers.append((b"x-fungible-request-id", self.request_id.encode()))
        if self.more_headers:
            headers += _encoded(self.more_headers)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a whole answer."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.start(status, headers)
        await self.send({"type": "http.response.body", "body": body})

    async def json(self, value: Any, status: int = 200) -> None:  # noqa: ANN401  # what JSON holds
        """Send a whole answer of JSON."""
        await self.respond(status, [JSON_TYPE], msgspec.json.encode(value))

    async def fail(self, error: FungibleError, number: int = 0) -> None:
        """Say what went wrong, in the endpoint's format; `number` is that of a stream's event."""
        if self.started:
            body = self.format.error_event(error, number)
            await self.send({"type": "http.response.body", "body": body})
            return
        headers: HeaderList = [JSON_TYPE]
        rest = error.retry_after_s if isinstance(error, UpstreamError) else None
        if rest is not None:
            headers.append((b"retry-after", f"{rest:g}".encode()))
        if isinstance(error, LimitError):
            headers += _encoded(error.headers)
        body = msgspec.json.encode(self.format.error_body(error))
        await self.respond(error.status, headers, body)


def _encoded(headers: Mapping[str, str]) -> HeaderList:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _too_large(limit: int) -> RequestError:
    error = RequestError(f"the request body is larger than {limit} bytes")
    error.status = 413
    return error
