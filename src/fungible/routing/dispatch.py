"""The one path: route -> backend -> row. Gateway, evals and bench all send through here.

The row of an attempt is on disk before the last byte of its answer is handed on: a client
that saw the end of an answer can be sure that the ledger will.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any

import msgspec

from fungible.backends.base import Backend
from fungible.backends.registry import build_backend
from fungible.config import Config
from fungible.contract.events import AttemptEvent
from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import DONE
from fungible.errors import FungibleError, StreamBrokenError, UnavailableError, UpstreamError
from fungible.ledger.spool import SpoolWriter
from fungible.routing.attempt import Attempt
from fungible.routing.health import Breaker
from fungible.routing.policy import choose, in_shadow
from fungible.routing.table import Route, Shadow

log = logging.getLogger(__name__)

MAX_SHADOWS = 64


class Dispatched:
    """An answer that has begun. Read `chunks` to the end, or call `aclose`.

    Attributes:
        status: HTTP status, 200 here: failures before the first token are raised instead.
        backend: Who answers.
        attempt: The row, on disk, once the body was read to its end; `None` before.
    """

    status = 200

    def __init__(self, attempt: Attempt, dispatcher: "Dispatcher") -> None:
        self.content_type = attempt.content_type
        self.backend = attempt.backend.name
        self.attempt: AttemptEvent | None = None
        self._attempt = attempt
        self._dispatcher = dispatcher

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body: server-sent events for a stream, else the whole at once.

        Raises:
            StreamBrokenError: The upstream broke off; nothing says `[DONE]` then.
            DiskError: The row could not be written; the end of the answer is withheld.
        """
        attempt = self._attempt
        try:
            if attempt.request.stream:
                async for frame in attempt.frames():
                    yield frame
                await self._commit()
                yield DONE
            else:
                body = b"".join([chunk async for chunk in attempt.frames()])
                await self._commit()
                yield body
        except UpstreamError as error:
            self.attempt = attempt.finish("interrupted", error)
            await self._dispatcher.record(self.attempt)
            raise
        finally:
            await self.aclose()

    async def _commit(self) -> None:
        event = self._attempt.finish("ok")
        await self._dispatcher.record(event)
        self.attempt = event

    async def aclose(self) -> None:
        """End it. If the body was not read to its end, the row says `cancelled`."""
        if self._attempt.event is None:
            # The client may be gone and our task cancelled: the row is written by another task.
            self.attempt = self._attempt.finish("cancelled")
            self._dispatcher.background(self._dispatcher.record(self.attempt))
        await self._attempt.close()


class Dispatcher:
    """Sends requests to backends and leaves a row for every attempt.

    Args:
        config: Who may serve.
        spool: Where rows go.
        backends: By name; built from the configuration when not given.
    """

    def __init__(
        self,
        *,
        config: Config,
        spool: SpoolWriter,
        backends: Mapping[str, Backend] | None = None,
    ) -> None:
        self.config = config
        self.spool = spool
        self._hash = config.content_hash()
        self._backends = dict(
            backends
            if backends is not None
            else {name: build_backend(name, item) for name, item in config.backend.items()}
        )
        self._slots = {
            name: asyncio.Semaphore(backend.settings.max_concurrency)
            for name, backend in self._backends.items()
        }
        self._breakers = {name: Breaker() for name in self._backends}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shadows = 0

    async def start(self) -> None:
        """Open every backend's connections."""
        for backend in self._backends.values():
            await backend.start()

    async def close(self) -> None:
        """Wait for rows and shadows under way, then close the backends."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for backend in self._backends.values():
            await backend.close()

    async def record(self, event: AttemptEvent) -> None:
        """Put a row on disk."""
        await self.spool.commit(event)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run to its end whatever happens to the caller; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)

    async def dispatch(
        self,
        request: InferenceRequest,
        *,
        route: Route | None = None,
        route_version: int = 0,
        backend: str | None = None,
    ) -> Dispatched:
        """Send a request; returns when the first token (or the whole answer) is here.

        With `backend` it goes to exactly that one, once. With `route` it follows weights,
        retries and fallbacks until a first token arrives.

        Raises:
            UpstreamError: The last failure, when no backend gave a first token.
            UnavailableError: There is no such backend.
        """
        if backend is not None:
            order = [backend]
        elif route is not None:
            order = choose(route, request)
            if route.shadow is not None and in_shadow(route, request):
                self._copy(request, route.shadow, route_version)
        else:
            raise UnavailableError("dispatch needs a route or a backend")
        return Dispatched(await self._first_token(request, order, route_version), self)

    async def _first_token(
        self, request: InferenceRequest, order: list[str], route_version: int
    ) -> Attempt:
        failure: FungibleError | None = None
        number = 0
        for at, name in enumerate(order):
            last = at == len(order) - 1
            # The last one is tried even if its breaker is open: better slow than nothing.
            if not (last and failure is None) and not self._breakers[name].closed():
                continue
            try:
                return await self._try(request, name, number, route_version)
            except UpstreamError as error:
                failure = error
                if not (error.transient or isinstance(error, StreamBrokenError)):
                    raise
            number += 1
        raise failure or UnavailableError("no backend is in service for this model")

    async def _try(
        self, request: InferenceRequest, name: str, number: int, route_version: int
    ) -> Attempt:
        if name not in self._backends:
            raise UnavailableError(f"no backend {name!r} is configured")
        attempt = Attempt(
            config=self.config,
            config_hash=self._hash,
            backend=self._backends[name],
            request=request,
            number=number,
            route_version=route_version,
        )
        try:
            await attempt.open(self._slots[name])
        except FungibleError as error:
            if error.transient:
                self._breakers[name].failed()
            await attempt.close()
            await self.record(attempt.finish("error", error))
            raise
        except BaseException:
            self.background(self._abandon(attempt))
            raise
        self._breakers[name].succeeded()
        return attempt

    async def _abandon(self, attempt: Attempt) -> None:
        await attempt.close()
        await self.record(attempt.finish("cancelled"))

    def _copy(self, request: InferenceRequest, shadow: Shadow, route_version: int) -> None:
        """Send the same to the shadow backend, unless it is too far behind to help."""
        if request.kind != "serve" or self._shadows >= MAX_SHADOWS:
            return
        # Tools have side effects in the application that called us: a copy must not offer them.
        body = {key: value for key, value in request.body.items() if not key.startswith("tool")}
        copy = msgspec.structs.replace(
            request, kind="shadow", run_id=shadow.migration_id, body=body
        )
        self._shadows += 1
        self.background(self._shadow(copy, shadow.backend, route_version))

    async def _shadow(self, request: InferenceRequest, name: str, route_version: int) -> None:
        try:
            attempt = await self._try(request, name, 0, route_version)
            async for _ in Dispatched(attempt, self).chunks():
                pass
        except UpstreamError as error:
            log.info("shadow on %s: %s", name, error.message)  # its row says the same
        finally:
            self._shadows -= 1


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a row or a shadow was lost: %s", error)
