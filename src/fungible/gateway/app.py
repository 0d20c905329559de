"""The gateway's application: the contract that product code sees.

Who is asking is settled before anything else: only `OPEN` paths are answered without a key.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.types import Receive, Scope, Send

from fungible.config import Config
from fungible.contract.openai import ModelCard, ModelList
from fungible.errors import ClientGoneError, FungibleError, RequestError
from fungible.gateway.auth import KeyRing
from fungible.gateway.call import JSON_TYPE, Call
from fungible.gateway.endpoints import ENDPOINTS
from fungible.gateway.inference import Inference
from fungible.gateway.metrics_port import MetricsPort
from fungible.gateway.openapi import Health, document
from fungible.gateway.reload import ConfigWatcher
from fungible.gateway.watch import RouteWatcher
from fungible.ledger.sheets import load_book
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher
from fungible.wire.formats import WireFormat

log = logging.getLogger(__name__)

Handler = Callable[[Call], Awaitable[None]]
OPEN = frozenset({"/health", "/openapi.json"})


class Gateway:
    """The application. It starts and closes `dispatcher`, and closes `spool` last."""

    def __init__(
        self,
        config: Config,
        dispatcher: Dispatcher,
        spool: SpoolWriter,
        config_path: Path | None = None,
    ) -> None:
        self._keys = KeyRing(config)
        self._routes = RouteWatcher(config)
        self._dispatcher = dispatcher
        self._spool = spool
        self._inference = Inference(config, self._routes, dispatcher)
        self._metrics = MetricsPort(config, spool.folder.name, dispatcher, self._routes)
        self._requests = self._metrics.meter.requests
        self.configuration = (
            ConfigWatcher(config_path, config, self.reconfigure) if config_path else None
        )
        self._reads: dict[str, Handler] = {
            "/health": self._health,
            "/openapi.json": self._openapi,
            "/v1/models": self._models,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server's own start and stop, all that we speak ASGI for."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def serve(self, call: Call) -> None:
        """Answer one request, whatever happens."""
        endpoint = ENDPOINTS.get(call.path)
        if endpoint is not None:
            call.format = endpoint
        try:
            await self._serve(call, endpoint)
        except ClientGoneError as error:
            log.debug("%s: %s", call.request_id, error.message)
        except FungibleError as error:
            call.fail(error)
        except Exception as error:  # whatever it is, the client gets an answer
            log.error("unexpected failure", exc_info=error)
            call.fail(FungibleError("the gateway failed unexpectedly; see its log"))
        finally:
            self._requests[endpoint.endpoint if endpoint else "", call.status] += 1

    async def _serve(self, call: Call, endpoint: WireFormat | None) -> None:
        path, method = call.path, call.method
        if path not in OPEN:
            call.key_name, call.key = self._keys.authenticate(
                call.header(b"authorization"), call.header(b"x-api-key")
            )
        if endpoint is not None:
            if method != "POST":
                raise _not_allowed(call, "POST")
            await self._inference.answer(call, endpoint)
            return
        handler = self._reads.get(path)
        if handler is None:
            raise _not_served("Not Found.", 404)
        if method not in ("GET", "HEAD"):
            raise _not_allowed(call, "GET, HEAD")
        await handler(call)

    async def _health(self, call: Call) -> None:
        rows = self._rows_state()
        breakers = Counter(str(one.breaker.state) for one in self._dispatcher.places.values())
        well = rows == "written" and set(breakers) <= {"closed"}
        health = Health(
            status="ok" if well else "degraded",
            route_version=self._routes.table.version,
            rows=rows,
            rows_lost=self._dispatcher.rows_lost,
            breakers=dict(breakers),
        )
        if self.configuration is not None:
            health.config_hash = self.configuration.config.content_hash()
            # The reason itself names paths and settings: it is in the log, not on an open path.
            health.config = "kept" if self.configuration.problem else "current"
        # Every request would be refused: whoever balances load should ask somebody else.
        call.json(health, 503 if rows == "refused" else 200)

    def _rows_state(self) -> str:
        if not self._spool.full:
            return "written"
        return "refused" if self._dispatcher.refusing else "lost"

    async def _openapi(self, call: Call) -> None:
        call.respond(200, [JSON_TYPE], document())

    async def reconfigure(self, config: Config) -> None:
        """Serve by another configuration; requests under way end on the old one."""
        keys, book = KeyRing(config), await asyncio.to_thread(load_book, config)
        limiter = await self._inference.limits.successor(config, book)
        try:
            await self._dispatcher.reconfigure(config)
        except BaseException:
            await limiter.close()
            raise
        # No await from here on: a request sees all of the old configuration or all of the new.
        self._keys = keys
        self._routes.reconfigure(config)
        self._inference.limits.replace(limiter)
        self._inference.reconfigure(config, book)

    async def _models(self, call: Call) -> None:
        now, allowed = int(time.time()), call.key.models
        names = [name for name in self._routes.table.routes if not allowed or name in allowed]
        call.json(ModelList(data=[ModelCard(id=name, created=now) for name in sorted(names)]))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the backends and follow the routes; at the end, leave no row behind."""
        await self._dispatcher.start()
        await self._inference.limits.start()
        following = [asyncio.create_task(self._routes.follow())]
        if self.configuration is not None:
            following.append(asyncio.create_task(self.configuration.follow()))
        try:
            async with self._metrics.open():
                yield
        finally:
            for task in following:
                task.cancel()
            await self._dispatcher.close()
            await self._inference.limits.close()
            await asyncio.to_thread(self._spool.close)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """The server's start and stop (ASGI specification, lifespan protocol)."""
        await receive()
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except FungibleError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            raise
        await send({"type": "lifespan.shutdown.complete"})


def build_gateway(
    config: Config, dispatcher: Dispatcher, spool: SpoolWriter, config_path: Path | None = None
) -> Gateway:
    """The application for a configuration; it follows the file at `config_path`, if given."""
    return Gateway(config, dispatcher, spool, config_path)


def _not_allowed(call: Call, methods: str) -> RequestError:
    call.more_headers = {"allow": methods}
    return _not_served("Method Not Allowed.", 405)


def _not_served(what: str, status: int) -> RequestError:
    paths = ", ".join([*ENDPOINTS, "/v1/models", "/openapi.json"])
    error = RequestError(what, hint=f"this gateway serves {paths}")
    error.status = status
    return error
