"""The engine's HTTP side: the OpenAI contract over one scheduler."""

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fungible.artifacts.manifest import Manifest
from fungible.contract.openai import ModelCard, ModelList
from fungible.engine.chat import ChatEndpoint
from fungible.engine.completions import CompletionsEndpoint
from fungible.engine.exchange import RequestIds
from fungible.engine.metrics import CONTENT_TYPE
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenize import TokenizeEndpoints
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import EngineError, FungibleError, UnavailableError, UpstreamBusyError

_RETRY_S = "1"


def build_app(
    scheduler: Scheduler,
    tokenizer: ChatTokenizer,
    manifest: Manifest,
    *,
    model_name: str = "",
    target: str = "",
    variant: str = "",
) -> Starlette:
    """The application; it starts the scheduler with its lifespan and closes it at its end.

    Args:
        scheduler: Not started yet.
        tokenizer: The artifact's.
        manifest: Says what `/v1/models` and `/health` tell about the artifact.
        model_name: What clients call the model; empty takes the artifact's name.
        target: Where the model runs, for `/health`.
        variant: Which precision runs, for `/health`.
    """
    model = model_name or manifest.name
    created = int(dt.datetime.fromisoformat(manifest.created).timestamp())

    async def models(_: Request) -> Response:
        return _json(ModelList(data=[ModelCard(id=model, created=created)]))

    async def health(_: Request) -> Response:
        if problem := scheduler.problem():
            raise UnavailableError(f"the engine cannot answer: {problem}")
        facts = {"status": "ok", "model": model, "artifact": manifest.digest}
        return _json(facts | {"variant": variant, "target": target})

    async def metrics(_: Request) -> Response:
        return Response(scheduler.metrics.render(model), media_type=CONTENT_TYPE)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        scheduler.start()
        try:
            yield
        finally:
            await scheduler.close()

    chat = ChatEndpoint(scheduler, tokenizer, model)
    completions = CompletionsEndpoint(scheduler, tokenizer, model)
    text = TokenizeEndpoints(tokenizer, model, scheduler.limits)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/tokenize", text.tokenize, methods=["POST"]),
            Route("/detokenize", text.detokenize, methods=["POST"]),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        exception_handlers=_HANDLERS,
        middleware=[Middleware(RequestIds)],
        lifespan=lifespan,
    )


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(value), status, headers=headers, media_type="application/json"
    )


def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FungibleError)  # noqa: S101  # registered for nothing else
    busy = isinstance(error, UpstreamBusyError | UnavailableError)
    return _json(error.to_openai(), error.status, {"Retry-After": _RETRY_S} if busy else None)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for nothing else
    message = f"{request.method} {request.url.path}: {error.detail}"
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return _json({"error": body}, error.status_code, dict(error.headers or {}))


def _on_bug(_: Request, error: Exception) -> Response:
    return _json(EngineError(f"unexpected: {error!r}").to_openai(), 500)


_HANDLERS: dict[Any, Callable[[Request, Exception], Response]] = {
    FungibleError: _on_error,
    HTTPException: _on_http_error,
    Exception: _on_bug,
}
