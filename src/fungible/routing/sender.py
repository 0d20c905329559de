"""Makes single attempts and keeps their rows: what every way of trying is built on."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from fungible.config import Config
from fungible.contract.events import AttemptEvent, Role
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    DiskError,
    FungibleError,
    QueueFullError,
    QueueTimeoutError,
    StreamBrokenError,
    UpstreamError,
    UpstreamRejectedError,
)
from fungible.ledger.spool import SpoolWriter
from fungible.routing.answer import adapter_failure
from fungible.routing.attempt import Attempt
from fungible.routing.place import Place
from fungible.routing.tally import Tally

log = logging.getLogger(__name__)


class Sender:
    """Sends single attempts.

    Attributes:
        rows_lost: Rows of attempts that were made and could not be written.
        tally: Every attempt, counted.
    """

    def __init__(self, config: Config, spool: SpoolWriter) -> None:
        self.config = config
        self.spool = spool
        self.rows_lost = 0
        self.tally = Tally()
        self._hash = config.content_hash()
        self._rows: set[asyncio.Task[Any]] = set()

    @property
    def refusing(self) -> bool:
        """Whether rows cannot be written, and that ends requests."""
        return self.spool.full and self.config.ledger.on_disk_full == "refuse"

    async def record(self, event: AttemptEvent) -> bool:
        """Put a row on disk; whether it is there.

        Raises:
            DiskError: It is not, and the policy is to refuse requests then.
        """
        self.tally.note(event)
        try:
            await self.spool.commit(event)
        except DiskError as error:
            self.rows_lost += 1
            if self.config.ledger.on_disk_full == "refuse":
                raise unrecorded() from error
            return False
        return True

    def in_background(self, work: Coroutine[Any, Any, object]) -> None:
        """Run to its end whatever happens to the caller."""
        self._keep(work, self._rows)

    async def _try(
        self,
        request: InferenceRequest,
        place: Place,
        number: int,
        route_version: int,
        role: Role = "first",
    ) -> Attempt:
        attempt = Attempt(
            config=self.config,
            config_hash=self._hash,
            place=place,
            request=request,
            number=number,
            route_version=route_version,
            role=role,
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

    def _keep(self, work: Coroutine[Any, Any, object], tasks: set[asyncio.Task[Any]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._log_failure)

    def _log_failure(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, DiskError):  # that is counted, and said once an outage
            self.rows_lost += 1
            log.error("a row or a shadow was lost: %s", error)


def unrecorded() -> DiskError:
    """What a client is told; the reason names paths, so only the log has it."""
    return DiskError(
        "the request cannot be recorded, so it is not answered",
        hint="try again later; the gateway's log has the reason",
    )


def _tell(place: Place, error: FungibleError) -> None:
    """Let the breaker know what a failure says about the backend."""
    breaker = place.breaker
    if isinstance(error, QueueFullError | QueueTimeoutError):
        breaker.abandoned()  # it was not asked
    elif error.transient or isinstance(error, StreamBrokenError):
        trips = breaker.trips
        breaker.failed()
        if breaker.trips != trips:
            log.warning("%s is at rest, it keeps failing: %s", place.name, error.message)
        if isinstance(error, UpstreamError) and error.retry_after_s:
            breaker.rest(error.retry_after_s)
    elif isinstance(error, UpstreamRejectedError):
        breaker.answered()  # alive, and right to refuse
    else:
        breaker.abandoned()
