"""One timer for a whole stream, where `asyncio.timeout_at` would set one for every chunk."""

import asyncio
from types import TracebackType


class Deadline:
    """Ends each block it guards with `TimeoutError` once time is up: `with deadline: await …`.

    Blocks follow one another and never overlap. Whoever made it must `stop` it.

    Args:
        when: On the clock of the running loop, in seconds.
        idle_s: Longest time within a block without `heard`; none if it is `None`.

    Attributes:
        silent: Whether it was silence that ended a block.
        heard_at: When something came, which `heard` sets, and whoever cannot afford that call.
    """

    def __init__(self, when: float, idle_s: float | None = None) -> None:
        self.silent = False
        self._when = when
        self._idle_s = idle_s
        self._held = False
        self.heard_at = 0.0
        self._over = False
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._loop = asyncio.get_running_loop()
        first = when if idle_s is None else min(when, self._loop.time() + idle_s)
        self._timer = self._loop.call_at(first, self._expire)

    def heard(self) -> None:
        """Something came. It moves no timer: that looks when it is due."""
        self.heard_at = self._loop.time()

    def hold(self, held: bool) -> None:
        """Whether we are the ones who keep silent."""
        self._held = held
        self.heard()

    def stop(self) -> None:
        """Forget about it."""
        self._timer.cancel()

    def __enter__(self) -> None:
        if self._over:
            raise TimeoutError
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # only coroutines of tasks wait
        self._cancelling = task.cancelling()
        self.heard_at = self._loop.time()
        self._waiting = task

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._waiting = self._waiting, None
        if kind is None or not self._over or task is None:
            return
        # Somebody else may have cancelled it as well: theirs goes on.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        if self._idle_s is not None:
            now = self._loop.time()
            ours = self._waiting is None or self._held
            due = min(self._when, (now if ours else self.heard_at) + self._idle_s)
            if due > now:
                self._timer = self._loop.call_at(due, self._expire)
                return
            self.silent = now < self._when
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()
