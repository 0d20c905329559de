"""Drives an ASGI application as a server would, without a socket."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import msgspec
from starlette.types import ASGIApp

from support.answered import Answered


class Call(Answered):
    """One HTTP request in flight."""

    def __init__(self, app: ASGIApp, method: str, path: str, body: object = None) -> None:
        super().__init__()
        self._gone = asyncio.Event()
        self._body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self._sent = False
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "server": ("engine", 80),
            "client": ("client", 1),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    def leave(self) -> None:
        """The client closes its connection."""
        self._gone.set()

    async def done(self) -> "Call":
        """Wait for the end of the response."""
        await asyncio.wait_for(asyncio.shield(self.task), 20)
        return self

    async def _receive(self) -> MutableMapping[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            self.chunks.append(message.get("body", b""))
