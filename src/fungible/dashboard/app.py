"""The page's routes: `/`, `/static/*`, `/api/live` and its stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from fungible.config import Config
from fungible.dashboard.feed import Feed
from fungible.dashboard.live import read_snapshot
from fungible.dashboard.snapshot import Snapshot
from fungible.ledger.store import Store

STATIC = Path(__file__).parent / "static"
PAGE_HEADERS = {
    # Inline styles are what the chart library sets on its own tooltip; scripts are files only.
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def dashboard_routes(store: Store, config: Config) -> list[BaseRoute]:
    """Routes of the live page over `store`.

    `GET /` is the page, `GET /static/*` its files, `GET /api/live` one snapshot as JSON (503
    with `{"message", "hint"}` when the ledger does not answer), `GET /api/live/stream` the
    same as server-sent events, about one a second, named `snapshot` or `trouble`.
    """
    return routes_from(partial(read_snapshot, store, config))


def routes_from(read: Callable[[], Snapshot], *, interval: float = 1.0) -> list[BaseRoute]:
    """The same routes over any source of snapshots; `read` blocks and runs in a thread."""
    feed = Feed(read, interval=interval)

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)

    async def live(request: Request) -> Response:
        frame = await feed.latest()
        headers = {"cache-control": "no-store"}
        status = 200 if frame.ok else 503
        return Response(frame.body, status, headers=headers, media_type="application/json")

    async def stream(request: Request) -> Response:
        # Set by `cli/serve.py` when the server begins to stop; without it only the client ends.
        stop = request.scope.get("extensions", {}).get("fungible.stopping") or asyncio.Event()
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(
            _events(feed, stop), headers=headers, media_type="text/event-stream"
        )

    return [
        Route("/", page),
        Route("/api/live", live),
        Route("/api/live/stream", stream),
        Mount("/static", _Static(directory=STATIC)),
    ]


async def _events(feed: Feed, stop: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    async with contextlib.aclosing(feed.watch(stop)) as frames:
        async for frame in frames:
            yield frame.event()


class _Static(StaticFiles):
    """Static files under the page's own policy, revalidated so that an upgrade shows at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in PAGE_HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await super().__call__(scope, receive, guarded)
