"""The gateway as an ASGI application: the contract that product code sees."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fungible.config import Config
from fungible.contract.openai import ModelCard, ModelList
from fungible.errors import FungibleError, RequestError, UpstreamError
from fungible.gateway.auth import KeyRing
from fungible.gateway.chat import ChatCompletions
from fungible.gateway.watch import RouteWatcher
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


def build_gateway(config: Config, dispatcher: Dispatcher, spool: SpoolWriter) -> Starlette:
    """The application. It starts and closes `dispatcher`, and closes `spool` last."""
    keys, routes = KeyRing(config), RouteWatcher(config)
    chat = ChatCompletions(keys, routes, dispatcher, config.gateway.max_body_bytes)

    async def models(request: Request) -> Response:
        _, key = keys.authenticate(request.headers.get("authorization"))
        now = int(time.time())
        names = [name for name in routes.table.routes if not key.models or name in key.models]
        return _json(ModelList(data=[ModelCard(id=name, created=now) for name in sorted(names)]))

    async def health(_: Request) -> Response:
        return _json({"status": "ok", "route_version": routes.table.version})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await dispatcher.start()
        following = asyncio.create_task(routes.follow())
        try:
            yield
        finally:
            following.cancel()
            await dispatcher.close()
            await asyncio.to_thread(spool.close)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", _endpoint(chat), methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        exception_handlers={
            FungibleError: _fungible_error,
            HTTPException: _http_error,
            Exception: _internal_error,
        },
        lifespan=lifespan,
    )


def _endpoint(chat: ChatCompletions) -> Endpoint:
    # Starlette takes callable objects for raw ASGI applications; a function it hands a request.
    async def chat_completions(request: Request) -> Response:
        return await chat(request)

    return chat_completions


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


async def _fungible_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FungibleError)  # noqa: S101  # registered for this class
    answer = _json(error.to_openai(), error.status)
    if isinstance(error, UpstreamError) and error.retry_after_s is not None:
        answer.headers["retry-after"] = f"{error.retry_after_s:g}"
    return answer


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class
    body = RequestError(f"{error.detail}.", hint="this gateway serves /v1/chat/completions")
    return _json(body.to_openai(), error.status_code)


async def _internal_error(_: Request, error: Exception) -> Response:
    log.error("unexpected failure", exc_info=error)
    return _json(FungibleError("the gateway failed unexpectedly; see its log").to_openai(), 500)
