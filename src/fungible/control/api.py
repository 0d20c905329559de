"""The control API. Everything but `/health` needs the token."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fungible.control.auth import require_token
from fungible.errors import RequestError

if TYPE_CHECKING:
    from fungible.control.app import Control

MAX_BODY = 1_000_000
MAX_ROWS = 100_000
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class ActivateBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/routes/activate`."""

    version: int
    reason: str = ""


class MigrationBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/migrations` and `/api/migrations/plan`."""

    model: str
    candidate: str


class RollbackBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/migrations/{id}/rollback`; the body may be missing."""

    reason: str = ""


class SqlBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/sql`: parameters are written `{name:Type}` in the query."""

    query: str
    params: dict[str, Any] = {}
    max_rows: int = MAX_ROWS


def body_response(body: object, *, status: int = 200) -> Response:
    """`body` as JSON; decimals and unknown types as text, so that no digit is lost."""
    data = msgspec.json.encode(body, enc_hook=str)
    headers = {"cache-control": "no-store"}
    return Response(data, status, headers=headers, media_type="application/json")


def api_routes(control: "Control", token: str) -> list[BaseRoute]:
    """Every route of the API over `control`."""
    reads = {
        "/api/routes": _active,
        "/api/routes/history": _history,
        "/api/migrations": _migrations,
        "/api/migrations/{migration_id}": _migration,
    }
    writes = {
        "/api/routes/activate": _activate,
        "/api/migrations": _start,
        "/api/migrations/plan": _plan,
        "/api/migrations/{migration_id}/rollback": _rollback,
        "/api/sql": _sql,
    }

    def bound(
        handler: Callable[["Control", Request], Awaitable[Response]], guarded: bool
    ) -> Handler:
        async def endpoint(request: Request) -> Response:
            if guarded:
                require_token(request, token)
            return await handler(control, request)

        return endpoint

    return [
        *(Route(path, bound(handler, True), methods=["POST"]) for path, handler in writes.items()),
        *(Route(path, bound(handler, True), methods=["GET"]) for path, handler in reads.items()),
        Route("/health", bound(_health, False), methods=["GET"]),
    ]


async def read_body(request: Request, kind: type[T], *, optional: bool = False) -> T:
    """The checked body; `RequestError` names the field at fault."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise RequestError(f"the body is larger than {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(data or (b"{}" if optional else b""), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"request body: {error}") from error


async def _health(control: "Control", request: Request) -> Response:
    del request
    loops = {loop.name: loop.status for loop in control.loops}
    failing = sorted(name for name, status in loops.items() if status.error)
    status = "degraded" if failing else "ok"
    return body_response(
        {
            "status": status,
            "pid": os.getpid(),
            "route_version": control.state.active().version,
            "loops": loops,
        }
    )


async def _active(control: "Control", request: Request) -> Response:
    del request
    return body_response(control.state.active())


async def _history(control: "Control", request: Request) -> Response:
    del request
    return body_response({"data": await asyncio.to_thread(control.state.history)})


async def _activate(control: "Control", request: Request) -> Response:
    body = await read_body(request, ActivateBody)
    table = await asyncio.to_thread(control.state.activate_version, body.version, body.reason)
    return body_response(table)


async def _migrations(control: "Control", request: Request) -> Response:
    del request
    return body_response({"data": await asyncio.to_thread(control.state.migrations)})


async def _migration(control: "Control", request: Request) -> Response:
    name = request.path_params["migration_id"]
    return body_response(await asyncio.to_thread(control.controller.find, name))


async def _plan(control: "Control", request: Request) -> Response:
    body = await read_body(request, MigrationBody)
    return body_response(await asyncio.to_thread(control.plan, body.model, body.candidate))


async def _start(control: "Control", request: Request) -> Response:
    body = await read_body(request, MigrationBody)
    started = await asyncio.to_thread(control.start_migration, body.model, body.candidate)
    return body_response(started, status=201)


async def _rollback(control: "Control", request: Request) -> Response:
    body = await read_body(request, RollbackBody, optional=True)
    name = request.path_params["migration_id"]
    return body_response(await asyncio.to_thread(control.rollback_migration, name, body.reason))


async def _sql(control: "Control", request: Request) -> Response:
    body = await read_body(request, SqlBody)
    if not 1 <= body.max_rows <= MAX_ROWS:
        raise RequestError(f"max_rows must be in [1, {MAX_ROWS}]", param="max_rows")

    def ask() -> Response:
        rows = control.store.query(body.query, body.params, readonly=True, max_rows=body.max_rows)
        return body_response(rows)

    return await asyncio.to_thread(ask)
