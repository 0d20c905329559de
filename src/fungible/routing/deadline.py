"""One timer for a whole stream, where `asyncio.timeout_at` would set one for every chunk."""

import asyncio
from types import TracebackType


class Deadline:
    """Ends each block it guards with `TimeoutError` once time is up: `with deadline: await …`.

    Blocks follow one another and never overlap. Whoever made it must `stop` it.

    Args:
        when: On the clock of the running loop, in seconds.
    """

    def __init__(self, when: float) -> None:
        self._over = False
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer = asyncio.get_running_loop().call_at(when, self._expire)

    def stop(self) -> None:
        """Forget about it."""
        self._timer.cancel()

    def __enter__(self) -> None:
        if self._over:
            raise TimeoutError
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # only coroutines of tasks wait
        self._cancelling = task.cancelling()
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
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()
