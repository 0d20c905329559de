"""The one path: route -> backend -> row. Gateway, evals and bench all send through here.

The row of an attempt is on disk before the last byte of its answer is handed on: a client
that saw the end of an answer can be sure that the ledger will.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from fungible.backends.base import Backend
from fungible.backends.registry import build_backend
from fungible.config import Config, RouteSettings
from fungible.contract.events import AttemptEvent
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    FungibleError,
    QueueFullError,
    QueueTimeoutError,
    StreamBrokenError,
    UnavailableError,
    UpstreamError,
    UpstreamRejectedError,
)
from fungible.ledger.spool import SpoolWriter
from fungible.routing.answer import Dispatched, adapter_failure
from fungible.routing.attempt import Attempt
from fungible.routing.budget import RetryBudget
from fungible.routing.place import Place
from fungible.routing.policy import choose, in_shadow, pause_before_repeat, shadow_of
from fungible.routing.table import Route, Shadow

log = logging.getLogger(__name__)


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
        if backends is None:
            backends = {name: build_backend(name, item) for name, item in config.backend.items()}
        self._places = {name: Place(backend) for name, backend in backends.items()}
        self.under_way: set[Dispatched] = set()
        self._rows: set[asyncio.Task[None]] = set()
        self._shadows: set[asyncio.Task[None]] = set()
        self._budgets: dict[str, RetryBudget] = {}
        self.shadows_dropped = 0

    async def start(self) -> None:
        """Open every backend's connections; if one cannot, those opened are closed again."""
        try:
            for place in self._places.values():
                await place.backend.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Cancel shadows, leave rows of open answers, wait for them, then close the backends."""
        for answer in list(self.under_way):
            answer.abandon()
        for task in self._shadows:
            task.cancel()
        while tasks := self._shadows | self._rows:
            await asyncio.gather(*tasks, return_exceptions=True)
        for place in self._places.values():
            await place.backend.close()

    async def record(self, event: AttemptEvent) -> None:
        """Put a row on disk."""
        await self.spool.commit(event)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run to its end whatever happens to the caller; `close` waits for it."""
        self._keep(work, self._rows)

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
            DiskError: A failed attempt could not be recorded.
        """
        if backend is not None:
            order = [backend]
        elif route is not None:
            order = choose(route, request)
            if route.shadow is not None and in_shadow(route, request):
                self._copy(request, route.shadow, route_version)
        else:
            raise UnavailableError("dispatch needs a route or a backend")
        budget = self._budget(request.model)
        budget.request()
        return Dispatched(await self._first_token(request, order, route_version, budget), self)

    def _budget(self, model: str) -> RetryBudget:
        budget = self._budgets.get(model)
        if budget is None:
            settings = self.config.route.get(model) or RouteSettings(reference="")
            budget = RetryBudget(settings.retry_budget, settings.retry_min_per_s)
            self._budgets[model] = budget
        return budget

    async def _first_token(
        self, request: InferenceRequest, order: list[str], route_version: int, budget: RetryBudget
    ) -> Attempt:
        failure: UpstreamError | None = None
        tried: list[str] = []
        for at, name in enumerate(order):
            place = self._place(name)
            # With nobody tried, the last one is, even at rest: better slow than nothing.
            last_chance = failure is None and at == len(order) - 1
            if not last_chance and not place.breaker.closed():
                continue
            if failure is not None and name == tried[-1]:
                pause = pause_before_repeat(failure, tried.count(name))
                if pause is None or not budget.spend():
                    continue
                await asyncio.sleep(pause)
            try:
                return await self._try(request, place, len(tried), route_version)
            except UpstreamError as error:
                # A stream that broke before its first token was shown to nobody.
                if not (error.transient or isinstance(error, StreamBrokenError)):
                    raise
                failure = error
            tried.append(name)
        raise failure or UnavailableError("no backend is in service for this model")

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise UnavailableError(
                f"no backend {name!r} is configured",
                hint=f"configured: {', '.join(sorted(self._places)) or 'none'}",
            )
        return self._places[name]

    async def _try(
        self, request: InferenceRequest, place: Place, number: int, route_version: int
    ) -> Attempt:
        attempt = Attempt(
            config=self.config,
            config_hash=self._hash,
            place=place,
            request=request,
            number=number,
            route_version=route_version,
        )
        try:
            await attempt.open()
        except FungibleError as error:
            await self._failed(attempt, error)
            raise
        except Exception as error:
            failure = adapter_failure(place.name, error)
            await self._failed(attempt, failure)
            raise failure from error
        except BaseException:
            place.breaker.abandoned()
            self.in_background(self._abandon(attempt))
            raise
        place.breaker.answered()
        return attempt

    async def _failed(self, attempt: Attempt, error: FungibleError) -> None:
        _tell(attempt.place, error)
        try:
            # First the row: nothing may come between the failure and its record.
            await self.record(attempt.finish("error", error))
        finally:
            await attempt.close()

    async def _abandon(self, attempt: Attempt) -> None:
        await attempt.close()
        await self.record(attempt.finish("cancelled"))

    def _copy(self, request: InferenceRequest, shadow: Shadow, route_version: int) -> None:
        """Send the same to the shadow backend, unless there is no room to spare."""
        place = self._places.get(shadow.backend)
        if place is None or request.kind != "serve":
            return
        full = len(self._shadows) >= self.config.gateway.max_shadows
        # A queue anywhere says that the machines have enough to do without copies.
        if full or place.slots.locked() or self._queued():
            self.shadows_dropped += 1
            return
        copy = shadow_of(request, shadow)
        self._keep(self._shadow(copy, place, route_version), self._shadows)

    async def _shadow(self, request: InferenceRequest, place: Place, route_version: int) -> None:
        try:
            attempt = await self._try(request, place, 0, route_version)
            async for _ in Dispatched(attempt, self).chunks():
                pass
        except UpstreamError as error:
            log.info("shadow on %s: %s", place.name, error.message)  # its row says the same

    def _queued(self) -> bool:
        return any(place.slots.waiting for place in self._places.values())

    def _keep(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_log_failure)


def _tell(place: Place, error: FungibleError) -> None:
    """Let the breaker know what a failure says about the backend."""
    breaker = place.breaker
    if isinstance(error, QueueFullError | QueueTimeoutError):
        breaker.abandoned()  # it was not asked
    elif error.transient or isinstance(error, StreamBrokenError):
        breaker.failed()
        if isinstance(error, UpstreamError) and error.retry_after_s:
            breaker.rest(error.retry_after_s)
    elif isinstance(error, UpstreamRejectedError):
        breaker.answered()  # alive, and right to refuse
    else:
        breaker.abandoned()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a row or a shadow was lost: %s", error)
