"""Notices a client that leaves, and decides what becomes of its request."""

import asyncio
from types import TracebackType

from fungible.gateway.call import Call


class Presence:
    """Watches a client while its request is served: `with Presence(call, grace_s) as client`.

    When the client leaves, the block is cancelled: at once, or `grace_s` seconds later, which
    lets an answer be read to its end for the sake of its token counts. That cancellation
    ends at the block; any other passes through.
    """

    def __init__(self, call: Call, grace_s: float = 0.0) -> None:
        self._call = call
        self._grace_s = grace_s
        self._cancelled = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def gone(self) -> bool:
        """Whether it has left."""
        return self._call.gone

    def __enter__(self) -> "Presence":
        call = self._call
        task = call.task
        assert task is not None  # noqa: S101  # whoever made the call gave it one
        self._owner = task
        call.on_left = self._left
        if call.gone:
            self._left()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._call.on_left = None
        if self._timer is not None:
            self._timer.cancel()
        return self._cancelled and kind is asyncio.CancelledError and not self._owner.uncancel()

    def _left(self) -> None:
        if self._grace_s > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._grace_s, self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        self._cancelled = True
        self._owner.cancel()
