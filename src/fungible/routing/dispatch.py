"""The one path: route -> backend -> row. Gateway, evals and bench all send through here.

The row of an attempt is on disk before the last byte of its answer is handed on: a client
that saw the end of an answer can be sure that the ledger will.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from fungible.backends.base import Backend
from fungible.backends.registry import build_backend
from fungible.config import Config, RouteSettings
from fungible.contract.events import AttemptEvent, Role
from fungible.contract.inference import InferenceRequest
from fungible.errors import UnavailableError, UnsupportedError, UpstreamError
from fungible.ledger.sheets import load_book
from fungible.ledger.spool import SpoolWriter
from fungible.routing.answer import Dispatched
from fungible.routing.attempt import Attempt
from fungible.routing.budget import RetryBudget
from fungible.routing.hedge import HedgeDelay, Running, may_go_elsewhere, race
from fungible.routing.place import Place
from fungible.routing.policy import choose, in_shadow, pause_before_repeat, shadow_of
from fungible.routing.sender import Sender, unrecorded
from fungible.routing.spend import Spend
from fungible.routing.table import Route, Shadow

log = logging.getLogger(__name__)

RETIRE_POLL_S = 0.5
RETIRE_AFTER = 4


class Line:
    """What one route needs beside its table entry: its settings, its budget, when it hedges."""

    def __init__(self, settings: RouteSettings) -> None:
        self.settings = settings
        self.budget = RetryBudget(settings.retry_budget, settings.retry_min_per_s)
        self.hedge = HedgeDelay(settings)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request on its way: where it may go, in order, and by which version of the table."""

    request: InferenceRequest
    order: list[str]
    line: Line
    route_version: int
    hedged: bool = False


class Dispatcher(Sender):
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
        super().__init__(config, spool)
        if backends is None:
            backends = {name: build_backend(name, item) for name, item in config.backend.items()}
        self.places = {name: Place(backend) for name, backend in backends.items()}
        self.under_way: set[Dispatched] = set()
        self._shadows: set[asyncio.Task[Any]] = set()
        self._retiring: set[asyncio.Task[Any]] = set()
        self._racing: set[Running] = set()
        self._leaving: dict[str, Place] = {}
        self._lines: dict[str, Line] = {}
        self._spend = _spend(config)
        self.shadows_dropped = 0

    async def start(self) -> None:
        """Open every backend's connections; if one cannot, those opened are closed again."""
        try:
            for place in self.places.values():
                await place.backend.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Cancel shadows, leave rows of open answers, wait for them, then close the backends."""
        for answer in list(self.under_way):
            answer.abandon()
        for task in self._shadows | self._retiring:
            task.cancel()
        while tasks := self._shadows | self._retiring | self._rows | self._racing:
            await asyncio.gather(*tasks, return_exceptions=True)
        for place in self.places.values():
            await place.backend.close()

    async def reconfigure(self, config: Config) -> None:
        """Send by another configuration from now on; attempts under way end on the old one.

        Backends whose settings stayed keep their slots, queue and breaker. When this raises,
        nothing has changed.

        Raises:
            ConfigError: An adapter refuses its settings.
            UnavailableError: A new backend cannot open its connections.
        """
        fresh: dict[str, Place] = {}
        try:
            spend = _spend(config)
            for name, settings in config.backend.items():
                old = self.places.get(name)
                if old is None or old.settings != settings:
                    backend = build_backend(name, settings)
                    fresh[name] = Place(backend)
                    await backend.start()
        except BaseException:
            for place in fresh.values():
                await place.backend.close()
            raise
        places = {name: fresh.get(name) or self.places[name] for name in config.backend}
        gone = {name: place for name, place in self.places.items() if places.get(name) is not place}
        same = {
            model: one for model, one in config.route.items() if self.config.route.get(model) == one
        }
        self._lines = {model: line for model, line in self._lines.items() if model in same}
        self.config, self._hash, self._spend = config, config.content_hash(), spend
        self.places = places
        self._leaving |= gone
        for name, place in gone.items():
            self._keep(self._retire(name, place), self._retiring)

    async def _retire(self, name: str, place: Place) -> None:
        """Close a backend that is configured no more, once nobody uses it."""
        try:
            idle = 0
            while idle < RETIRE_AFTER:  # a request may have chosen it and not sent anything yet
                idle = 0 if place.outstanding else idle + 1
                await asyncio.sleep(RETIRE_POLL_S)
        finally:
            if self._leaving.get(name) is place:
                del self._leaving[name]
            await place.backend.close()

    async def record(self, event: AttemptEvent) -> bool:
        """Put a row on disk; see `Sender.record`."""
        if self._spend is not None and (place := self.places.get(event.backend)) is not None:
            self._spend.note(place, event)
        return await super().record(event)

    async def dispatch(
        self,
        request: InferenceRequest,
        *,
        route: Route | None = None,
        route_version: int = 0,
        backend: str | None = None,
    ) -> Dispatched:
        """Send a request; returns when the first token (or the whole answer) is here.

        With `backend` it goes to exactly that one, once. With `route` it follows policy,
        retries and fallbacks until a first token arrives.

        Raises:
            UpstreamError: The last failure, when no backend gave a first token.
            UnsupportedError: The first refusal, when every backend that was tried refused.
            UnavailableError: There is no such backend.
            DiskError: Rows cannot be written. If that is known, nothing is sent.
        """
        if self.refusing:
            raise unrecorded()
        line = self.line(request.model)
        hedged = False
        if backend is not None:
            order = [backend]
        elif route is not None:
            order = choose(route, request, line.settings, self.places, self._spend)
            # Evidence stays clean: while a migration is under way nobody is raced.
            hedged = line.hedge.on and not route.migration_id and request.kind == "serve"
            if route.shadow is not None and in_shadow(route, request):
                self._copy(request, route.shadow, route_version)
        else:
            raise UnavailableError("dispatch needs a route or a backend")
        line.budget.request()
        call = Call(
            request=request, order=order, line=line, route_version=route_version, hedged=hedged
        )
        return Dispatched(await self._first_token(call), self)

    def line(self, model: str) -> Line:
        """What belongs to the route of a model; defaults where the file has no such route."""
        line = self._lines.get(model)
        if line is None:
            settings = self.config.route.get(model) or RouteSettings(reference="")
            line = self._lines[model] = Line(settings)
        return line

    async def _first_token(self, call: Call) -> Attempt:
        failure: UpstreamError | None = None
        refusal: UnsupportedError | None = None
        tried: list[str] = []
        refused: set[str] = set()
        for at, name in enumerate(call.order):
            if name in refused:
                continue
            place = self._place(name)
            # With nobody tried, the last one is, even at rest: better slow than nothing.
            last_chance = failure is None and at == len(call.order) - 1
            if not (last_chance or place.breaker.ready()):
                continue
            if failure is not None and name == tried[-1]:
                pause = pause_before_repeat(failure, tried.count(name))
                if pause is None or not call.line.budget.spend():
                    continue
                await asyncio.sleep(pause)
            if not place.breaker.closed() and not last_chance:
                continue
            try:
                return await self._open(call, place, tried)
            except UnsupportedError as error:
                # Nothing was sent: what this one cannot say, the next may.
                refusal = refusal or error
                refused.add(name)
            except UpstreamError as error:
                if not may_go_elsewhere(error):
                    raise
                failure = error
        raise failure or refusal or UnavailableError("no backend is in service for this model")

    async def _open(self, call: Call, place: Place, tried: list[str]) -> Attempt:
        """One attempt, or two that race; adds to `tried` who was asked."""
        number = len(tried)
        role: Role = "first" if not tried else "retry" if place.name == tried[-1] else "fallback"
        tried.append(place.name)
        began = time.monotonic()
        trying = self._try(call.request, place, number, call.route_version, role)
        raced = call.hedged and not number
        after_s = call.line.hedge.after_s(call.request.stream) if raced else None
        if after_s is None:
            attempt = await trying
        else:
            attempt = await race(
                self._running(trying), after_s, lambda: self._second(call, tried), self._drop
            )
        self._learn(call, attempt, time.monotonic() - began)
        return attempt

    def _learn(self, call: Call, attempt: Attempt, seconds: float) -> None:
        settings, streamed = call.line.settings, call.request.stream
        if settings.policy == "latency":
            place = attempt.place
            (place.latency if streamed else place.whole_latency).note(seconds)
        if settings.hedge_percentile is not None:
            call.line.hedge.note(streamed, seconds)

    def _second(self, call: Call, tried: list[str]) -> Running | None:
        """A hedge on the next backend that is well and has a free slot, within the budget."""
        for name in call.order:
            place = self.places.get(name)
            if name in tried or place is None:
                continue
            if place.slots.locked() or not place.breaker.ready():
                continue
            if not call.line.budget.spend():
                return None
            place.breaker.closed()
            tried.append(name)
            number = len(tried) - 1
            return self._running(
                self._try(call.request, place, number, call.route_version, "hedge")
            )
        return None

    def _running(self, work: Coroutine[Any, Any, Attempt]) -> Running:
        """A racing attempt; `close` waits for it, so that the loser's row is not lost."""
        task = asyncio.get_running_loop().create_task(work)
        self._racing.add(task)
        task.add_done_callback(self._racing.discard)
        return task

    def _drop(self, attempt: Attempt) -> None:
        """End an attempt that began too late; its row says `cancelled`."""
        self.in_background(self._abandon(attempt))

    def _place(self, name: str) -> Place:
        place = self.places.get(name) or self._leaving.get(name)
        if place is None:
            raise UnavailableError(
                f"no backend {name!r} is configured",
                hint=f"configured: {', '.join(sorted(self.places)) or 'none'}",
            )
        return place

    def _copy(self, request: InferenceRequest, shadow: Shadow, route_version: int) -> None:
        """Send the same to the shadow backend, unless there is no room to spare."""
        place = self.places.get(shadow.backend)
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
            attempt = await self._try(request, place, 0, route_version, "shadow")
            async for _ in Dispatched(attempt, self).chunks():
                pass
        except UpstreamError as error:
            log.info("shadow on %s: %s", place.name, error.message)  # its row says the same

    def _queued(self) -> bool:
        return any(place.slots.waiting for place in self.places.values())


def _spend(config: Config) -> Spend | None:
    if any(route.policy == "cost" for route in config.route.values()):
        return Spend(load_book(config))
    return None
