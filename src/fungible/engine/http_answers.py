"""Answers in JSON, and each error as the OpenAI error body; shared by the engine's servers."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fungible.engine.exchange import REQUEST_ID, request_id_of
from fungible.errors import (
    EngineError,
    FungibleError,
    UnavailableError,
    UnsupportedError,
    UpstreamBusyError,
)

_RETRY_S = "1"


def json_answer(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """An answer in JSON."""
    return Response(
        msgspec.json.encode(value), status, headers=headers, media_type="application/json"
    )


def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FungibleError)  # noqa: S101  # registered for nothing else
    busy = isinstance(error, UpstreamBusyError | UnavailableError)
    return json_answer(error.to_openai(), error.status, {"Retry-After": _RETRY_S} if busy else None)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for nothing else
    message = f"{request.method} {request.url.path}: {error.detail}"
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return json_answer({"error": body}, error.status_code, dict(error.headers or {}))


def _on_bug(request: Request, error: Exception) -> Response:
    # Starlette answers for a bug outside all middleware, so that of `RequestIds` is not reached.
    body = EngineError(f"unexpected: {error!r}").to_openai()
    return json_answer(body, 500, {REQUEST_ID: request_id_of(request.scope)})


# For Starlette: one OpenAI error body for each error.
ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Response]] = {
    FungibleError: _on_error,
    HTTPException: _on_http_error,
    Exception: _on_bug,
}


def refusals(paths: tuple[str, ...], message: str, hint: str) -> list[Route]:
    """Routes that say why this model does not answer there: HTTP 400, and what to do."""

    def refuse(path: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(_: Request) -> Response:
            raise UnsupportedError(f"{path}: {message}", hint=hint)

        return endpoint

    return [Route(path, refuse(path), methods=["POST"]) for path in paths]
