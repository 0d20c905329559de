"""Slots are shared fairly: exact bounds, with every order of events that Hypothesis finds."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.errors import QueueFullError, QueueTimeoutError
from fungible.routing.slots import Slots

LONG_S = 1000.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Waiting:
    """Requests in line; `settle` notes in which order they got their slots."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.tasks: dict[int, tuple[str, asyncio.Task[None]]] = {}
        self.granted: list[tuple[int, str]] = []
        self._next = 0

    async def come(self, customer: str, rank: int = 0) -> int:
        mine = self._next = self._next + 1

        async def wait() -> None:
            await self.slots.wait(customer, rank, LONG_S)
            self.granted.append((mine, customer))

        self.tasks[mine] = (customer, asyncio.create_task(wait()))
        await self.settle()
        return mine

    async def settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def in_line(self) -> Counter[str]:
        return Counter(name for name, task in self.tasks.values() if not task.done())

    async def end(self) -> None:
        for _, task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in self.tasks.values()), return_exceptions=True)


customers = st.sampled_from(["a", "b", "c"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), customers),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(capacity=st.integers(1, 3), script=steps)
def test_the_invariants_hold_in_any_order_of_events(
    capacity: int, script: list[tuple[str, str | int]]
) -> None:
    async def simulate() -> None:
        slots = Slots("x", capacity, 1024, Clock())
        line = Waiting(slots)
        holding: list[str] = []
        for step, what in script:
            seen = len(line.granted)
            before = Counter(holding)
            waiting = line.in_line()
            if step == "come":
                await line.come(str(what))
            elif step == "leave" and holding:
                gone = holding.pop(int(what) % len(holding))
                before[gone] -= 1
                slots.leave(gone)
            elif step == "cancel" and waiting:
                pending = [task for _, task in line.tasks.values() if not task.done()]
                pending[int(what) % len(pending)].cancel()
            await line.settle()
            fresh = [name for _, name in line.granted[seen:]]
            if step == "leave" and fresh:
                # Who got the slot held the fewest of all who waited.
                assert before[fresh[0]] == min(before[name] for name in waiting)
            holding += fresh
            assert slots.held == len(holding) <= capacity
            assert slots.waiting == sum(line.in_line().values())
            assert slots.waiting == 0 or slots.held == capacity, "a free slot is never left idle"
        await line.end()
        for name in holding:
            slots.leave(name)
        assert (slots.held, slots.waiting, slots.locked()) == (0, 0, False)
        assert sum(slots.take("z") for _ in range(capacity + 1)) == capacity

    asyncio.run(simulate())


@settings(max_examples=50, deadline=None)
@given(capacity=st.integers(1, 4), heavy=st.integers(1, 200), others=st.integers(0, 6))
def test_a_heavy_customer_delays_a_light_one_by_one_slot_per_other_customer(
    capacity: int, heavy: int, others: int
) -> None:
    async def simulate() -> None:
        slots = Slots("x", capacity, 1024, Clock())
        for _ in range(capacity):
            assert slots.take("heavy")
        line = Waiting(slots)
        for _ in range(heavy):
            await line.come("heavy")
        for at in range(others):
            await line.come(f"other{at}")
        light = await line.come("light")
        running, releases, seen = ["heavy"] * capacity, 0, 0
        while (light, "light") not in line.granted:
            slots.leave(running.pop(0))
            await line.settle()
            running += [name for _, name in line.granted[seen:]]
            seen = len(line.granted)
            releases += 1
            assert releases <= others + 1
        await line.end()

    asyncio.run(simulate())


async def test_each_customer_gets_the_same_share_however_many_ask() -> None:
    slots = Slots("x", 4, 1024, Clock())
    line = Waiting(slots)
    for name, count in (("heavy", 300), ("light", 60), ("lighter", 60)):
        for _ in range(count):
            await line.come(name)
    running = [name for _, name in line.granted]
    served: Counter[str] = Counter()
    for _ in range(150):  # everybody has work all the time; slots free in order of arrival
        slots.leave(running.pop(0))
        seen = len(line.granted)
        await line.settle()
        running += [name for _, name in line.granted[seen:]]
        served[running[-1]] += 1
    assert max(served.values()) - min(served.values()) <= 4
    await line.end()


async def test_a_customers_own_requests_stay_in_order() -> None:
    slots = Slots("x", 1, 1024, Clock())
    assert slots.take("a")
    line = Waiting(slots)
    order = [await line.come("a") for _ in range(5)]
    for _ in order:
        slots.leave("a")
        await line.settle()
    assert [mine for mine, _ in line.granted] == order


async def test_serving_comes_before_evals_and_evals_before_shadows() -> None:
    slots = Slots("x", 1, 1024, Clock())
    assert slots.take("a")
    line = Waiting(slots)
    shadow = await line.come("a", 2)
    test = await line.come("b", 1)
    serve = await line.come("c", 0)
    for holder in "acb":
        slots.leave(holder)
        await line.settle()
    assert [mine for mine, _ in line.granted] == [serve, test, shadow]


async def test_a_full_queue_sends_away_and_says_when_to_come_back() -> None:
    slots = Slots("x", 1, 2, Clock())
    assert slots.take("a")
    line = Waiting(slots)
    for _ in range(2):
        await line.come("a")
    with pytest.raises(QueueFullError, match="2 requests wait for x") as caught:
        await slots.wait("b", 0, LONG_S)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1.0)
    assert slots.refused == 1
    await line.end()
    assert slots.waiting == 0


async def test_retry_after_follows_how_fast_slots_become_free() -> None:
    clock = Clock()
    slots = Slots("x", 1, 8, clock)
    assert slots.take("a")
    line = Waiting(slots)
    for _ in range(8):
        await line.come("a")
    for _ in range(4):
        clock.now += 10.0
        slots.leave("a")
        await line.settle()
    # 3 intervals of 10 s, each a fifth of the moving average; 4 wait, and one more would.
    average = 10.0 * (1 - 0.8**3)
    assert slots.expected_wait_s() == float(-(-(5 * average) // 1))
    await line.end()


async def test_patience_ends_a_wait_and_leaves_no_slot_behind() -> None:
    slots = Slots("x", 1, 8)
    assert slots.take("a")
    with pytest.raises(QueueTimeoutError, match="at its limit of 1") as caught:
        await slots.wait("b", 0, 0.01)
    assert caught.value.status == 503
    assert caught.value.retry_after_s is not None
    assert (slots.waiting, slots.held) == (0, 1)
    slots.leave("a")
    assert slots.take("b")


async def test_who_is_cancelled_in_the_moment_of_its_turn_gives_the_slot_on() -> None:
    slots = Slots("x", 1, 8)
    assert slots.take("a")
    line = Waiting(slots)
    first, second = await line.come("b"), await line.come("c")
    slots.leave("a")  # b's turn, but its task has not run yet
    line.tasks[first][1].cancel()
    await line.settle()
    assert line.granted == [(second, "c")]
    assert (slots.held, slots.waiting) == (1, 0)
