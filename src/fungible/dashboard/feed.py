"""One poll of the ledger, shared by everyone who looks at the page."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from fungible.contract.sse import encode_frame
from fungible.dashboard.snapshot import Snapshot
from fungible.errors import FungibleError

log = logging.getLogger(__name__)


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no fresh snapshot; the page keeps showing the last one."""

    message: str
    hint: str = ""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One reading: JSON of a `Snapshot`, or of a `Trouble` when `ok` is false."""

    ok: bool
    body: bytes
    taken: float

    def event(self) -> bytes:
        """The reading as a server-sent event named `snapshot` or `trouble`."""
        name = b"snapshot" if self.ok else b"trouble"
        return b"event: " + name + b"\n" + encode_frame(self.body)


class Feed:
    """Reads while somebody watches, once for all of them, and never twice at the same time.

    `read` blocks and runs in a thread. Reading, failing and recovering never ends the feed.

    Args:
        read: Makes one snapshot; any exception becomes a `trouble` event.
        interval: Seconds between the starts of two reads. After a long read the rest is at
            least twice as long as it took, so that a large ledger is not kept busy.
        slow: Seconds after which a running read is reported as slow.
    """

    def __init__(
        self, read: Callable[[], Snapshot], *, interval: float = 1.0, slow: float = 5.0
    ) -> None:
        self._read = read
        self._interval = interval
        self._slow = slow
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Frame] | None = None
        self._next: asyncio.Future[Frame] | None = None
        self._last: Frame | None = None

    async def latest(self) -> Frame:
        """A reading that is at most one interval old."""
        if self._last is not None and self._fresh(self._last):
            return self._last
        return await asyncio.shield(self._start_reading())

    async def watch(self, stop: asyncio.Event) -> AsyncGenerator[Frame]:
        """Readings as they are made, a fresh one at once, until `stop` is set."""
        self._watchers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        stopping = asyncio.create_task(stop.wait())
        try:
            if self._last is not None and self._fresh(self._last):
                yield self._last
            while not stop.is_set():
                upcoming = self._upcoming()
                either: list[asyncio.Future[Any]] = [upcoming, stopping]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if upcoming.done():
                    yield upcoming.result()
        finally:
            stopping.cancel()
            self._watchers -= 1

    def _fresh(self, frame: Frame) -> bool:
        return time.monotonic() - frame.taken < self._interval

    def _upcoming(self) -> asyncio.Future[Frame]:
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def _publish(self, frame: Frame) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(frame)

    async def _poll(self) -> None:
        while self._watchers > 0:
            started = time.monotonic()
            reading = self._start_reading()
            while not (await asyncio.wait({reading}, timeout=self._slow))[0]:
                taken = time.monotonic() - started
                self._publish(_trouble(f"the ledger has not answered for {taken:.0f} s"))
            self._publish(reading.result())
            took = time.monotonic() - started
            await asyncio.sleep(max(self._interval - took, 2 * took))

    def _start_reading(self) -> asyncio.Task[Frame]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._take())
        return self._reading

    async def _take(self) -> Frame:
        try:
            snapshot = await asyncio.to_thread(self._read)
        except FungibleError as error:
            frame = _trouble(error.message, error.hint)
        except Exception as error:
            # A defect in one query must not leave every viewer with a dead page.
            log.exception("the live page's reading failed")
            frame = _trouble(f"{type(error).__name__}: {error}", "see the log of control")
        else:
            body = msgspec.json.encode(snapshot)
            frame = Frame(ok=True, body=body, taken=time.monotonic())
        self._last = frame
        return frame


def _trouble(message: str, hint: str = "") -> Frame:
    body = msgspec.json.encode(Trouble(message=message, hint=hint))
    return Frame(ok=False, body=body, taken=time.monotonic())
