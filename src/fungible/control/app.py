"""The control process: the ledger's owner, the routes' keeper, the migrations' driver."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from fungible.config import Config
from fungible.control.api import api_routes, body_response
from fungible.control.engines import step_log_path
from fungible.control.evidence import LedgerEvidence
from fungible.control.loops import Loop
from fungible.control.receiver import TraceReceiver
from fungible.control.state import ControlState
from fungible.errors import FungibleError
from fungible.ingest.step_log import StepTail
from fungible.ledger.known_prices import KnownPrices
from fungible.ledger.pricing import reprice
from fungible.ledger.ship import ship
from fungible.ledger.spool import ROTATE_S, SpoolWriter
from fungible.ledger.stitch import stitch
from fungible.ledger.store import Store
from fungible.migrate.controller import MigrationController
from fungible.migrate.plan import MigrationPlan
from fungible.migrate.states import Migration

SHIP_S = 0.2
STEPS_S = 1.0
REPRICE_S = 1.0
MIGRATE_S = 0.5


class Control:
    """Everything that the control process does, over an open ledger.

    Opens its own state and spool; `close` them by `shut_down`. The store stays the caller's.

    Args:
        config: Who may serve.
        store: The ledger, migrated.
        token: Guards the API.
    """

    def __init__(self, config: Config, store: Store, *, token: str) -> None:
        self.config = config
        self.store = store
        self._prices = KnownPrices(config)
        self._shipping = threading.Lock()
        self.state = ControlState(config)
        self._spool = SpoolWriter(config.spool_path(), "control")
        self._tails: dict[str, StepTail] = {}
        self.controller = MigrationController(
            config=config, evidence=LedgerEvidence(store), store=self.state
        )
        self.loops = [
            Loop("steps", STEPS_S, self.collect_steps),
            Loop("ship", SHIP_S, self.ship),
            Loop("reprice", REPRICE_S, self.reprice),
            Loop("migrate", MIGRATE_S, self.migrate),
        ]
        self._receiver = TraceReceiver(config, token)
        self.routes: list[BaseRoute] = [*api_routes(self, token), *self._receiver.routes]

    def ship(self) -> int:
        """Move sealed segments into the ledger."""
        with self._shipping:
            return ship(self.config.spool_path(), self.store)

    def collect_steps(self) -> int:
        """Move what local engines logged of their steps into the spool."""
        found = 0
        for name, backend in self.config.backend.items():
            if backend.engine is None:
                continue
            if name not in self._tails:
                path = step_log_path(self.config.home_path(), name)
                self._tails[name] = StepTail(path, name, self._spool.write)
            found += self._tails[name].read()
        return found

    def reprice(self) -> int:
        """Put together and price what is new."""
        stitch(self.store, time.time_ns())
        return reprice(self.store, self._prices.book(self.store), time.time_ns())

    def migrate(self) -> None:
        """Look at every migration, then tell the ledger about the edges that were taken."""
        try:
            self.controller.tick()
            self.state.refresh()
        finally:
            self.publish()

    def plan(self, model: str, candidate: str) -> MigrationPlan:
        """What starting would do, by every verdict that was written until now."""
        plan = self.controller.plan(model, candidate)
        if plan.refusal is not None:
            # A verdict written a moment ago is in a segment that its writer has yet to seal.
            time.sleep(ROTATE_S + 0.1)
            self.ship()
            plan = self.controller.plan(model, candidate)
        return plan

    def start_migration(self, model: str, candidate: str) -> Migration:
        """Open a migration; see `MigrationController.start`."""
        self.plan(model, candidate)
        try:
            return self.controller.start(model, candidate)
        finally:
            self.publish()

    def rollback_migration(self, migration_id: str, reason: str) -> Migration:
        """Turn a migration back; see `MigrationController.rollback`."""
        try:
            return self.controller.rollback(migration_id, reason)
        finally:
            self.publish()

    def publish(self) -> int:
        """Put the events of taken edges into the spool."""
        return self.state.publish(self._spool.write)

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """Run the loops while the server runs; leave nothing in the spool behind."""
        del app
        for loop in self.loops:
            loop.start()
        try:
            yield
        finally:
            for loop in self.loops:
                await loop.stop()
            await asyncio.to_thread(self.shut_down)

    def shut_down(self) -> None:
        """Ship and price once more, then close state and spool."""
        try:
            self.publish()
            self.collect_steps()
        finally:
            self._receiver.close()
            self._spool.close()
            self.state.close()
        self.ship()
        self.reprice()


def build_app(control: Control, extra: Sequence[BaseRoute] = ()) -> Starlette:
    """The application of a control process; `extra` routes (the page) come after the API."""
    return Starlette(
        routes=[*control.routes, *extra],
        lifespan=control.running,
        exception_handlers={
            FungibleError: _on_error,
            HTTPException: _on_http_error,
            Exception: _on_bug,
        },
    )


async def _on_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, FungibleError)  # noqa: S101  # registered for this class only
    return body_response(error.to_openai(), status=error.status)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class only
    said = {
        "message": f"{request.method} {request.url.path}: {error.detail}",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found" if error.status_code == 404 else "invalid_request",
    }
    return body_response({"error": said}, status=error.status_code)


async def _on_bug(request: Request, error: Exception) -> Response:
    # Starlette raises it again after this answer, so the server logs the traceback.
    failure = FungibleError(f"{request.url.path}: {type(error).__name__}", hint="see control's log")
    return body_response(failure.to_openai(), status=500)
