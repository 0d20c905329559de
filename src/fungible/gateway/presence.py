"""Notices a client that leaves, and decides what becomes of its request."""

import asyncio
import contextlib
from types import TracebackType

from starlette.types import Receive


class Presence:
    """Watches a client while its request is served: `with Presence(receive, grace_s) as client`.

    When the client leaves, the block is cancelled: at once, or `grace_s` seconds later, which
    lets an answer be read to its end for the sake of its token counts. That cancellation
    ends at the block; any other passes through.

    Attributes:
        gone: Whether it has left.
    """

    def __init__(self, receive: Receive, grace_s: float = 0.0) -> None:
        self.gone = False
        self._receive = receive
        self._grace_s = grace_s
        self._cancelled = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "Presence":
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # servers call us in tasks
        self._owner = task
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._watcher.cancel()
        if self._timer is not None:
            self._timer.cancel()
        return self._cancelled and kind is asyncio.CancelledError and not self._owner.uncancel()

    async def _watch(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.gone = True
            if self._grace_s > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._grace_s, self._cancel)
            else:
                self._cancel()

    def _cancel(self) -> None:
        self._cancelled = True
        self._owner.cancel()
