"""`POST /v1/chat/completions`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fungible.contract.ids import new_id
from fungible.contract.inference import InferenceRequest
from fungible.contract.openai import parse_chat
from fungible.errors import ClientGoneError, FungibleError, RequestError
from fungible.gateway.auth import KeyRing, attribute, check_model
from fungible.gateway.watch import RouteWatcher
from fungible.routing.answer import Dispatched
from fungible.routing.dispatch import Dispatcher
from fungible.wire.formats import openai_error_event


class ChatCompletions:
    """The endpoint, with what it needs to answer."""

    def __init__(
        self, keys: KeyRing, routes: RouteWatcher, dispatcher: Dispatcher, max_body: int
    ) -> None:
        self._keys = keys
        self._routes = routes
        self._dispatcher = dispatcher
        self._max_body = max_body

    async def __call__(self, request: Request) -> Response:
        """Answer, or raise a `FungibleError` that the application turns into its body."""
        name, key = self._keys.authenticate(request.headers.get("authorization"))
        chat, raw = parse_chat(await read_body(request, self._max_body))
        table = self._routes.table
        check_model(key, chat.model, table.routes)
        inference = InferenceRequest(
            request_id=new_id("req_"),
            model=chat.model,
            body=raw,
            stream=bool(chat.stream),
            attribution=attribute(name, key, raw),
        )
        route = table.routes[chat.model]
        answer = await unless_gone(
            request,
            self._dispatcher.dispatch(inference, route=route, route_version=table.version),
        )
        headers = {
            "x-fungible-request-id": inference.request_id,
            "x-fungible-backend": answer.backend,
            "x-fungible-route-version": str(table.version),
        }
        if inference.stream:
            headers["cache-control"] = "no-cache"
            return AnswerStream(answer, headers)
        async with contextlib.aclosing(answer.chunks()) as chunks:
            body = b"".join([chunk async for chunk in chunks])
        return Response(body, media_type=answer.content_type, headers=headers)


class AnswerStream(StreamingResponse):
    """A streamed answer that is closed even if nobody was there to start reading it."""

    def __init__(self, answer: Dispatched, headers: dict[str, str]) -> None:
        super().__init__(stream(answer), media_type=answer.content_type, headers=headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client that leaves cancels the call upstream at once."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


async def stream(answer: Dispatched) -> AsyncIterator[bytes]:
    """The events of an answer; a broken one ends in an error event and no `[DONE]`."""
    async with contextlib.aclosing(answer.chunks()) as chunks:
        try:
            async for chunk in chunks:
                yield chunk
        except FungibleError as error:
            yield openai_error_event(error)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Dispatched]) -> Dispatched:
    """The result of `work`, cancelled as soon as the client leaves.

    Raises:
        ClientGoneError: It left; the attempt under way is recorded as cancelled.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError("the client left before its answer began")
        return working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        RequestError: It is larger than `limit` bytes.
        ClientGoneError: The client left.
    """
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                error = RequestError(f"the request body is larger than {limit} bytes")
                error.status = 413
                raise error
            parts.append(part)
    except ClientDisconnect as error:
        raise ClientGoneError("the client left before its request was complete") from error
    return b"".join(parts)
