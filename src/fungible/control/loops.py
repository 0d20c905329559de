"""Work that control repeats in the background, each kind in a thread of its own."""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from fungible.errors import FungibleError

log = logging.getLogger(__name__)


class LoopStatus(msgspec.Struct, kw_only=True):
    """How a loop is doing; `error` is the last failure and empty after a success."""

    runs: int = 0
    last_ok_ns: int = 0
    error: str = ""


class Loop:
    """Calls a blocking job every `interval_s`, whatever happened the time before.

    A failure is logged once, when it begins, and kept in `status` until the job succeeds.
    """

    def __init__(self, name: str, interval_s: float, job: Callable[[], object]) -> None:
        self.name = name
        self.status = LoopStatus()
        self._interval = interval_s
        self._job = job
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.create_task(self._repeat(), name=self.name)

    async def stop(self) -> None:
        """Let the job in progress end; then no more."""
        self._stop.set()
        if self._task is not None:
            await self._task

    async def _repeat(self) -> None:
        while not self._stop.is_set():
            await asyncio.to_thread(self.run_once)
            try:
                await asyncio.wait_for(self._stop.wait(), self._interval)
            except TimeoutError:
                continue

    def run_once(self) -> None:
        """One run of the job; its failure is recorded, never raised."""
        self.status.runs += 1
        try:
            self._job()
        except FungibleError as error:
            self._failed(f"{error.message}{f' hint: {error.hint}' if error.hint else ''}")
        except Exception as error:
            # A loop outlives its bugs: they are logged in full, and /health says so.
            if not self.status.error:
                log.exception("%s failed", self.name)
            self.status.error = f"{type(error).__name__}: {error}"
        else:
            if self.status.error:
                log.warning("%s works again", self.name)
            self.status.error = ""
            self.status.last_ok_ns = time.time_ns()

    def _failed(self, message: str) -> None:
        if message != self.status.error:
            log.warning("%s: %s", self.name, message)
        self.status.error = message
