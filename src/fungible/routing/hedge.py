"""Asks a second backend when the first stays silent; whoever begins first answers."""

import asyncio
import math
from collections import deque
from collections.abc import Callable

from fungible.config import RouteSettings
from fungible.errors import UnsupportedError, UpstreamError
from fungible.routing.attempt import Attempt

RECENT = 200
ENOUGH = 20

Running = asyncio.Task[Attempt]


class HedgeDelay:
    """When to hedge on one route: a fixed delay, or a percentile of recent first tokens."""

    def __init__(self, settings: RouteSettings) -> None:
        self._fixed_ms = settings.hedge_after_ms
        self._percentile = settings.hedge_percentile
        self._recent: dict[bool, deque[float]] = {
            streamed: deque(maxlen=RECENT) for streamed in (True, False)
        }

    @property
    def on(self) -> bool:
        """Whether the route hedges at all."""
        return self._fixed_ms is not None or self._percentile is not None

    def note(self, streamed: bool, seconds: float) -> None:
        """How long one attempt took to begin; whole answers are kept apart from streams."""
        self._recent[streamed].append(seconds)

    def after_s(self, streamed: bool) -> float | None:
        """Seconds to wait for the first attempt; `None` while too few are known."""
        if self._fixed_ms is not None:
            return self._fixed_ms / 1000
        recent = sorted(self._recent[streamed])
        if self._percentile is None or len(recent) < ENOUGH:
            return None
        return recent[min(math.ceil(self._percentile / 100 * len(recent)), len(recent)) - 1]


async def race(
    first: Running,
    after_s: float,
    second: Callable[[], Running | None],
    drop: Callable[[Attempt], None],
) -> Attempt:
    """The attempt that begins first; the other is cancelled.

    Args:
        first: The first attempt, under way.
        after_s: How long it has the field for itself.
        second: Starts the second one, or nothing if there may be none.
        drop: Gets an attempt that began too late, to end and record it.

    Raises:
        UpstreamError: Both failed (the later failure), or one says that any other would too.
        UnsupportedError: Whoever was asked refused, and nothing was sent.
    """
    tasks = {first}
    winner: Attempt | None = None
    try:
        done, _ = await asyncio.wait(tasks, timeout=after_s)
        if not done and (other := second()) is not None:
            tasks.add(other)
        pending = set(tasks)
        failure: UpstreamError | None = None
        refusal: UnsupportedError | None = None
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                problem = task.exception()
                if problem is None:
                    winner = task.result()
                    return winner
                if isinstance(problem, UnsupportedError):
                    refusal = problem
                elif isinstance(problem, UpstreamError) and may_go_elsewhere(problem):
                    failure = problem
                else:
                    raise problem
        last = failure or refusal
        assert last is not None  # noqa: S101  # somebody ended, and nobody won
        raise last
    finally:
        for task in tasks:
            _settle(task, winner, drop)


def may_go_elsewhere(error: UpstreamError) -> bool:
    """Whether another backend may do better, as nothing was shown to the client yet."""
    return error.transient or error.code == "stream_broken"


def _settle(task: Running, winner: Attempt | None, drop: Callable[[Attempt], None]) -> None:
    def late(done: Running) -> None:
        if done.cancelled() or done.exception() is not None:
            return  # its row says so
        if done.result() is not winner:
            drop(done.result())

    task.cancel()
    task.add_done_callback(late)
