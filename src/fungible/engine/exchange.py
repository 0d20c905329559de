"""One HTTP exchange on bare ASGI: read the body, watch for a client that leaves, stream answers."""

import asyncio
import re
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fungible.contract.ids import new_id
from fungible.contract.openai import UsageBody
from fungible.contract.sse import encode_frame
from fungible.engine.answers import AnswerGroup
from fungible.engine.generation import Output
from fungible.errors import EngineError, FungibleError, RequestError

_MAX_BODY = 10_000_000
REQUEST_ID = "x-request-id"
_ID_HEADER = REQUEST_ID.encode()
_ID_KEY = "request_id"
_PLAIN_ID = re.compile(rb"[!-~]{1,128}")
_STREAM_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


class StreamWriter(Protocol):
    """Encodes the events of one stream."""

    def opening(self) -> bytes:
        """Events before any answer's text."""
        ...

    def frames(self, index: int, output: Output) -> bytes:
        """Events of one output of one answer."""
        ...

    def closing(self, usage: UsageBody) -> bytes:
        """Events after the last output; ends in `[DONE]`."""
        ...


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestError: It is too large.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise RequestError(f"the request body is larger than {_MAX_BODY} bytes")
    return body


async def cancel_when_gone(receive: Receive, group: AnswerGroup) -> None:
    """Give the answers up when the client closes its connection; run it beside them."""
    while (await receive())["type"] != "http.disconnect":
        pass
    group.cancel()


async def send_stream(group: AnswerGroup, writer: StreamWriter, send: Send) -> None:
    """Send the answers as server-sent events.

    Nothing, not even the head, goes out before the first token. A stream that breaks ends in
    an error event, without `[DONE]`.

    Raises:
        FungibleError: It failed before the head went out.
    """
    outputs = await group.outputs()
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEAD})
    body = writer.opening()
    try:
        while True:
            body += b"".join(writer.frames(index, output) for index, output in outputs)
            if group.finished:
                break
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
            outputs = await group.outputs()
        body += b"" if group.cancelled else writer.closing(group.usage())
    except FungibleError as error:
        body = _error_frame(error)
    except asyncio.CancelledError:
        body = _error_frame(EngineError("the engine is shutting down"))
        await send({"type": "http.response.body", "body": body, "more_body": False})
        raise
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _error_frame(error: FungibleError) -> bytes:
    return encode_frame(msgspec.json.encode(error.to_openai()))


class RequestIds:
    """Gives every request an id and names it in the response, as `x-request-id`.

    The client's own is kept, when it is short and printable.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _ID_HEADER), b"")
        name = given if _PLAIN_ID.fullmatch(given) else new_id("req_").encode()
        scope.setdefault("state", {})[_ID_KEY] = name.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_ID_HEADER, name)]
            await send(message)

        await self._app(scope, receive, send_with_id)


def request_id_of(scope: Scope) -> str:
    """The id that `RequestIds` gave the request."""
    return str(scope["state"][_ID_KEY])
