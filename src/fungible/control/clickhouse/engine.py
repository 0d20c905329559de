"""Threads in which statements run, how many may, and how one is stopped."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fungible.control.clickhouse.failures import ClickHouseError
from fungible.control.clickhouse.handles import Handle
from fungible.ledger.clients import Address

T = TypeVar("T")
WAITING_PER_LANE = 8
WAIT_S = 30.0
_KILL_AGAIN_S = 0.2


class ClientGoneError(Exception):
    """Nobody is there to read the answer."""


class Engine:
    """The embedded engine for statements that come over HTTP.

    A statement has a thread of its own, a lane, until it ends: the engine keeps state in them.

    Args:
        address: Of an embedded ledger that this process has open.
        lanes: How many statements run at once.
    """

    def __init__(self, address: Address, lanes: int) -> None:
        self.address = address
        self._all = [ThreadPoolExecutor(1, f"clickhouse-{number}") for number in range(lanes)]
        self._free: asyncio.Queue[ThreadPoolExecutor] = asyncio.Queue()
        for lane in self._all:
            self._free.put_nowait(lane)
        self._waiting = 0
        self._own = Handle(address)
        self._own_lock = threading.Lock()
        self.version, self.timezone = (
            self._own.run("SELECT version(), timezone()").rstrip("\n").split("\t")
        )

    @contextlib.asynccontextmanager
    async def lane(self) -> AsyncIterator[ThreadPoolExecutor]:
        """A free lane, for the `async with` block.

        Raises:
            ClickHouseError: 202, when too many wait or none becomes free in time.
        """
        if self._free.empty() and self._waiting >= WAITING_PER_LANE * len(self._all):
            raise self._busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_S):
                lane = await self._free.get()
        except TimeoutError as error:
            raise self._busy() from error
        finally:
            self._waiting -= 1
        try:
            yield lane
        finally:
            self._free.put_nowait(lane)

    async def step(
        self,
        lane: ThreadPoolExecutor,
        mark: str,
        gone: "asyncio.Future[None]",
        work: Callable[[], T],
    ) -> T:
        """`work`, in its lane; stopped when the client goes or this task is cancelled.

        Raises:
            ClientGoneError: `gone` was done first.
        """
        future = asyncio.get_running_loop().run_in_executor(lane, work)
        both: set[asyncio.Future[Any]] = {future, gone}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise ClientGoneError
            return future.result()
        finally:
            if not future.done():
                await asyncio.shield(self._stop(mark, future))

    async def _stop(self, mark: str, future: "asyncio.Future[T]") -> None:
        """Kill a statement, again if it was not yet there to be killed."""
        while not future.done():
            await asyncio.to_thread(self._kill, mark)
            await asyncio.wait({future}, timeout=_KILL_AGAIN_S)
        with contextlib.suppress(Exception):  # it failed because it was killed
            future.result()

    def _kill(self, mark: str) -> None:
        with self._own_lock:
            self._own.run(f"KILL QUERY WHERE Settings['log_comment'] = '{mark}' ASYNC")

    def _busy(self) -> ClickHouseError:
        return ClickHouseError(
            202, f"{len(self._all)} statements run already, and others wait: try again later"
        )

    def close(self) -> None:
        """Wait for what runs, then let go of the engine."""
        for lane in self._all:
            lane.shutdown(wait=True)
        self._own.close()
