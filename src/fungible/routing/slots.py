"""A backend's slots: how many calls run at once, and who is next when all are taken.

A free slot goes to serve traffic first, then to evals and replays, then to shadows. Within
one of these ranks it goes to the customer who holds the fewest slots, and among those to the
one whose last turn is longest ago; a customer's own requests stay in order. So who holds
nothing waits for at most one slot per other waiting customer who holds nothing either,
however many requests a heavy customer has in the queue.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

from fungible.contract.inference import Kind
from fungible.errors import QueueFullError, QueueTimeoutError

RANKS: dict[Kind, int] = {"serve": 0, "eval": 1, "bench": 1, "judge": 1, "shadow": 2}
_LOWEST = max(RANKS.values())


class Slots:
    """Slots with a queue per rank and customer. For one event loop.

    Args:
        name: Of the backend, for errors.
        capacity: Slots.
        longest: Requests that may wait at once; more are sent away.
        clock: Seconds, never going back.

    Attributes:
        held: Slots taken.
        waiting: Requests in the queues.
        refused: Requests that were sent away, because of the queue's length or their patience.
        waited_s: Seconds that requests have waited in all.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        longest: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.longest = longest
        self.held = 0
        self.waiting = 0
        self.refused = 0
        self.waited_s = 0.0
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._clock = clock
        self._holding: Counter[str] = Counter()
        self._queues: tuple[dict[str, deque[asyncio.Future[None]]], ...] = tuple(
            {} for _ in range(_LOWEST + 1)
        )
        self._turns: dict[str, int] = {}
        self._turn = 1
        self._freed_at = 0.0
        self._between_s = 0.0

    def locked(self) -> bool:
        """Whether a request that came now would have to wait."""
        return self.held >= self.capacity or self.waiting > 0

    def take(self, customer: str) -> bool:
        """Take a slot without waiting, if there is one and nobody waits for it."""
        if self.held >= self.capacity or self.waiting:
            return False
        if not self.held:
            self._busy_since = self._clock()
        self.held += 1
        self._holding[customer] += 1
        return True

    def busy_s(self) -> float:
        """Seconds in which at least one slot was taken, in all."""
        return self._busy_s + (self._clock() - self._busy_since if self.held else 0.0)

    async def wait(self, customer: str, rank: int, patience_s: float) -> None:
        """Take a slot, waiting in line for at most `patience_s`.

        Raises:
            QueueFullError: Too many wait already.
            QueueTimeoutError: No slot became free in time.
        """
        if self.take(customer):
            return
        if self.waiting >= self.longest:
            self.refused += 1
            full = QueueFullError(f"{self.longest} requests wait for {self.name} already")
            full.retry_after_s = self.expected_wait_s()
            raise full
        began = self._clock()
        mine = asyncio.get_running_loop().create_future()
        self._queues[rank].setdefault(customer, deque()).append(mine)
        self.waiting += 1
        try:
            async with asyncio.timeout(patience_s):
                await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled():  # granted in the same turn of the loop
                self.leave(customer)
            else:
                self._forget(customer, rank, mine)
            if isinstance(error, TimeoutError):
                self.refused += 1
                late = QueueTimeoutError(
                    f"{self.name} was at its limit of {self.capacity} requests for too long"
                )
                late.retry_after_s = self.expected_wait_s()
                raise late from error
            raise
        finally:
            self.waited_s += self._clock() - began

    def leave(self, customer: str) -> None:
        """Give a slot back; the next in line has it at once."""
        self.held -= 1
        self._holding[customer] -= 1
        if not self._holding[customer]:
            del self._holding[customer]
        if self.waiting:
            now = self._clock()
            if self._freed_at:
                self._between_s += 0.2 * (now - self._freed_at - self._between_s)
            self._freed_at = now
            self._turns.setdefault(customer, 1)  # it had its turn before there was a line
            self._grant()
        else:
            self._freed_at = 0.0
            if not self.held:
                self._busy_s += self._clock() - self._busy_since

    def expected_wait_s(self) -> float:
        """Whole seconds (1 to 60) until the queue of now is served, as slots became free lately."""
        return float(min(max(-(-(self.waiting + 1) * self._between_s // 1), 1), 60))

    def _grant(self) -> None:
        while self.waiting and self.held < self.capacity:
            queues = next(queues for queues in self._queues if queues)
            turns = self._turns
            customer = min(queues, key=lambda name: (self._holding[name], turns.get(name, 0)))
            mine = queues[customer].popleft()
            if not queues[customer]:
                del queues[customer]
            self.waiting -= 1
            if mine.done():  # its task was cancelled in this turn of the loop
                continue
            self._turn += 1
            turns[customer] = self._turn
            self.held += 1
            self._holding[customer] += 1
            mine.set_result(None)
        if not self.waiting:
            self._turns.clear()

    def _forget(self, customer: str, rank: int, mine: asyncio.Future[None]) -> None:
        queue = self._queues[rank].get(customer)
        if queue is None or mine not in queue:
            return  # `_grant` took it out already
        queue.remove(mine)
        self.waiting -= 1
        if not queue:
            del self._queues[rank][customer]
