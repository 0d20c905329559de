"""No interleaving of gateways spends more than the budget and its stated bound."""

import asyncio
import tempfile
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fungible.limits.buckets import SCALE, Bucket, Charge, Hold, Settlement
from fungible.limits.memory import MemoryStore
from fungible.limits.sqlite import SqliteStore
from fungible.limits.store import LimitStore

SECOND = 1_000_000
BUDGET, PER_MINUTE = 1000, 20
LIVES = 90 * SECOND
MONEY = Bucket("money", BUDGET)
RATE = Bucket("rate", PER_MINUTE * SCALE, PER_MINUTE, 1 << 62)


class Live(msgspec.Struct):
    gateway: int
    hold: Hold
    charges: list[Charge]


class Gateways(RuleBasedStateMachine):
    """Three gateways on one store: they ask, settle, are late, and crash at any moment."""

    def stores(self) -> list[LimitStore]:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.gateways = self.stores()
        for store in self.gateways:
            self.loop.run_until_complete(store.open())
        self.now = 1_790_000_000 * SECOND
        self.live: list[Live] = []
        self.crashed: list[Live] = []
        self.spent = self.beyond = self.number = 0
        self.admitted: list[tuple[int, int]] = []

    def teardown(self) -> None:
        # Whatever happened: once everything is over and late, only what was spent remains.
        for item in self.live:
            self._settle(item, 7)
        self.now += LIVES
        levels = self.loop.run_until_complete(self.gateways[0].levels([MONEY], self.now))
        assert levels == (self.spent,)
        for store in self.gateways:
            self.loop.run_until_complete(store.close())
        self.loop.close()

    @rule(
        gateway=st.integers(0, 2),
        needs=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 5)), min_size=1, max_size=6),
    )
    def ask_at_once(self, gateway: int, needs: list[tuple[int, int]]) -> None:
        asks = []
        for at, (money, tokens) in enumerate(needs):
            self.number += 1
            hold = Hold(id=f"h{self.number}", made_us=self.now, expires_us=self.now + LIVES)
            charges = [Charge(MONEY, money), Charge(RATE, tokens * SCALE)]
            which = (gateway + at) % len(self.gateways)
            asks.append((which, hold, charges))

        async def ask() -> list[bool]:
            answers = await asyncio.gather(
                *(self.gateways[which].reserve(hold, charges) for which, hold, charges in asks)
            )
            return [answer.admitted for answer in answers]

        for (which, hold, charges), taken in zip(
            asks, self.loop.run_until_complete(ask()), strict=True
        ):
            if taken:
                self.live.append(Live(which, hold, charges))
                self.admitted.append((self.now, charges[1].amount // SCALE))

    @rule(which=st.integers(0, 100), used=st.integers(0, 700))
    def end(self, which: int, used: int) -> None:
        # No precondition: which of two at once is admitted is up to the threads.
        if self.live:
            self._settle(self.live.pop(which % len(self.live)), used)

    def _settle(self, item: Live, used: int) -> None:
        money, rate = item.charges
        # What a rate admits is checked by what was reserved, so it is settled as reserved.
        settlements = [Settlement(money, used), Settlement(rate, rate.amount)]
        store = self.gateways[item.gateway]
        self.loop.run_until_complete(store.settle(item.hold, settlements, self.now))
        self.spent += used
        late = self.now >= item.hold.expires_us
        self.beyond += used if late else max(0, used - money.amount)

    @rule(gateway=st.integers(0, 2))
    def crash(self, gateway: int) -> None:
        self.crashed += [item for item in self.live if item.gateway == gateway]
        self.live = [item for item in self.live if item.gateway != gateway]

    @rule(seconds=st.integers(1, 100))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @invariant()
    def money_is_where_it_should_be(self) -> None:
        held = sum(
            item.charges[0].amount
            for item in [*self.live, *self.crashed]
            if item.hold.expires_us > self.now
        )
        levels = self.loop.run_until_complete(self.gateways[0].levels([MONEY], self.now))
        assert levels == (self.spent + held,)

    @invariant()
    def spent_within_the_bound(self) -> None:
        assert self.spent <= BUDGET + self.beyond

    @invariant()
    def no_minute_admits_more_than_twice_the_rate(self) -> None:
        for start, _ in self.admitted:
            inside = [n for at, n in self.admitted if start <= at < start + 60 * SECOND]
            assert sum(inside) <= 2 * PER_MINUTE


class InMemory(Gateways):
    def stores(self) -> list[LimitStore]:
        return [MemoryStore()] * 3


class InOneFile(Gateways):
    def stores(self) -> list[LimitStore]:
        self.folder = tempfile.TemporaryDirectory()
        path = str(Path(self.folder.name) / "limits.db")
        return [SqliteStore(path, 10.0) for _ in range(3)]

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestInOneFile = InOneFile.TestCase
TestInOneFile.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=slow
)
