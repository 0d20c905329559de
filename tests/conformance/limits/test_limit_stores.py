"""One suite over every store of limits: the same calls, the same answers."""

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungible.config import Config, LimitsSettings
from fungible.errors import LimitStoreError
from fungible.limits.buckets import SCALE, Bucket, Charge, Hold, Settlement
from fungible.limits.memory import MemoryStore
from fungible.limits.store import LimitStore, build_store
from support.servers import free_port

NOW = 1_790_000_000_000_000
SECOND = 1_000_000
MONEY = Bucket("money", 1000, 0, 0)
RATE = Bucket("rate", 10 * SCALE, 10, NOW + 3600 * SECOND)
numbers = itertools.count()


def hold(at: int = NOW, lives: int = 60 * SECOND) -> Hold:
    return Hold(id=f"hold_{next(numbers)}", made_us=at, expires_us=at + lives)


async def test_all_or_none(limit_store: LimitStore) -> None:
    first = await limit_store.reserve(hold(), [Charge(MONEY, 400), Charge(RATE, 10 * SCALE)])
    assert (first.admitted, first.levels) == (True, (400, 10 * SCALE))
    second = await limit_store.reserve(hold(), [Charge(MONEY, 400), Charge(RATE, 1)])
    assert (second.admitted, second.levels) == (False, (400, 10 * SCALE))
    assert await limit_store.levels([MONEY, RATE], NOW) == (400, 10 * SCALE)


async def test_money_settles_to_what_was_used(limit_store: LimitStore) -> None:
    one, charge = hold(), Charge(MONEY, 700)
    assert (await limit_store.reserve(one, [charge])).admitted
    assert not (await limit_store.reserve(hold(), [Charge(MONEY, 301)])).admitted
    await limit_store.settle(one, [Settlement(charge, 123)], NOW + SECOND)
    assert await limit_store.levels([MONEY], NOW + SECOND) == (123,)
    assert (await limit_store.reserve(hold(), [Charge(MONEY, 877)])).admitted


async def test_what_was_used_beyond_the_estimate_counts_too(limit_store: LimitStore) -> None:
    one, charge = hold(), Charge(MONEY, 700)
    await limit_store.reserve(one, [charge])
    await limit_store.settle(one, [Settlement(charge, 1200)], NOW)
    assert await limit_store.levels([MONEY], NOW) == (1200,)
    assert not (await limit_store.reserve(hold(), [Charge(MONEY, 0 + 1)])).admitted


async def test_settling_twice_counts_once(limit_store: LimitStore) -> None:
    one, charge = hold(), Charge(MONEY, 700)
    await limit_store.reserve(one, [charge])
    for _ in range(3):
        await limit_store.settle(one, [Settlement(charge, 100)], NOW + SECOND)
    assert await limit_store.levels([MONEY], NOW + SECOND) == (100,)


async def test_a_hold_of_a_crashed_gateway_expires(limit_store: LimitStore) -> None:
    one, charge = hold(lives=10 * SECOND), Charge(MONEY, 1000)
    await limit_store.reserve(one, [charge])
    late = NOW + 10 * SECOND
    assert not (await limit_store.reserve(hold(late - 1), [Charge(MONEY, 1)])).admitted
    assert (await limit_store.reserve(hold(late), [Charge(MONEY, 1000)])).admitted


async def test_a_settlement_after_its_hold_expired_still_counts(limit_store: LimitStore) -> None:
    one, charge = hold(lives=SECOND), Charge(MONEY, 500)
    await limit_store.reserve(one, [charge])
    late = NOW + 5 * SECOND
    assert await limit_store.levels([MONEY], late) == (0,)
    await limit_store.settle(one, [Settlement(charge, 300)], late)
    assert await limit_store.levels([MONEY], late) == (300,)


async def test_a_rate_drains_within_its_minute(limit_store: LimitStore) -> None:
    assert (await limit_store.reserve(hold(), [Charge(RATE, 10 * SCALE)])).admitted
    assert not (await limit_store.reserve(hold(), [Charge(RATE, 1)])).admitted
    half = NOW + 30 * SECOND
    assert await limit_store.levels([RATE], half) == (5 * SCALE,)
    assert not (await limit_store.reserve(hold(half), [Charge(RATE, 5 * SCALE + 1)])).admitted
    assert (await limit_store.reserve(hold(half), [Charge(RATE, 5 * SCALE)])).admitted
    assert await limit_store.levels([RATE], NOW + 90 * SECOND) == (0,)


async def test_what_has_drained_is_not_given_back_again(limit_store: LimitStore) -> None:
    one, charge = hold(), Charge(RATE, 10 * SCALE)
    await limit_store.reserve(one, [charge])
    minute = NOW + 60 * SECOND
    assert (await limit_store.reserve(hold(minute), [Charge(RATE, 10 * SCALE)])).admitted
    await limit_store.settle(one, [Settlement(charge, 0)], minute)
    assert await limit_store.levels([RATE], minute) == (10 * SCALE,)


async def test_too_much_flows_back_at_once_and_too_little_is_added(limit_store: LimitStore) -> None:
    one, two = hold(), hold()
    charge = Charge(RATE, 5 * SCALE)
    await limit_store.reserve(one, [charge])
    await limit_store.reserve(two, [charge])
    await limit_store.settle(one, [Settlement(charge, SCALE)], NOW)
    assert await limit_store.levels([RATE], NOW) == (6 * SCALE,)
    await limit_store.settle(two, [Settlement(charge, 8 * SCALE)], NOW)
    assert await limit_store.levels([RATE], NOW) == (9 * SCALE,)


async def test_a_clock_that_ran_backwards_drains_nothing(limit_store: LimitStore) -> None:
    await limit_store.reserve(hold(), [Charge(RATE, 10 * SCALE)])
    assert await limit_store.levels([RATE], NOW - 60 * SECOND) == (10 * SCALE,)
    assert not (await limit_store.reserve(hold(NOW - 60 * SECOND), [Charge(RATE, 1)])).admitted


async def test_numbers_are_exact_up_to_the_largest(limit_store: LimitStore) -> None:
    much = 10**18
    big = Bucket("big", much, 0, 0)
    one, charge = hold(), Charge(big, much - 1)
    assert (await limit_store.reserve(one, [charge])).admitted
    await limit_store.settle(one, [Settlement(charge, much - 3)], NOW)
    assert await limit_store.levels([big], NOW) == (much - 3,)


async def test_a_hold_of_nothing_is_settled_and_expires(limit_store: LimitStore) -> None:
    one, two, charge = hold(), hold(), Charge(MONEY, 0)
    assert (await limit_store.reserve(one, [charge])).admitted
    assert (await limit_store.reserve(two, [charge])).admitted
    await limit_store.settle(one, [Settlement(charge, 7)], NOW)
    assert await limit_store.levels([MONEY], NOW) == (7,)
    assert await limit_store.levels([MONEY], NOW + 10**6 * SECOND) == (7,)


async def test_at_once_no_more_is_admitted_than_there_is(limit_store: LimitStore) -> None:
    asks = [
        limit_store.reserve(hold(), [Charge(MONEY, 90), Charge(RATE, SCALE)]) for _ in range(40)
    ]
    taken = [decision.admitted for decision in await asyncio.gather(*asks)]
    assert sum(taken) == 10
    assert await limit_store.levels([MONEY, RATE], NOW) == (900, 10 * SCALE)


async def test_locks_in_any_order_do_not_block_each_other(limit_store: LimitStore) -> None:
    buckets = [Bucket(f"b{at}", 10**9, 0, 0) for at in range(5)]
    orders = list(itertools.permutations(buckets))[:60]
    asks = [limit_store.reserve(hold(), [Charge(b, 1) for b in order]) for order in orders]
    assert all(decision.admitted for decision in await asyncio.gather(*asks))
    assert await limit_store.levels(buckets, NOW) == (60,) * 5


async def test_many_gateways_share_one_store(limit_dsn: str) -> None:
    if limit_dsn == "memory://":
        pytest.skip("memory is of one process by design")
    config = Config(limits=LimitsSettings(store=limit_dsn, store_timeout_s=10.0))
    stores = [build_store(config) for _ in range(3)]
    await asyncio.gather(*(one.open() for one in stores))
    asks = [stores[at % 3].reserve(hold(), [Charge(MONEY, 90)]) for at in range(30)]
    assert sum(decision.admitted for decision in await asyncio.gather(*asks)) == 11
    one, charge = hold(), Charge(MONEY, 10)
    assert (await stores[0].reserve(one, [charge])).admitted
    await stores[1].settle(one, [Settlement(charge, 0)], NOW)
    for store in stores:
        assert await store.levels([MONEY], NOW) == (990,)
        await store.close()


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
async def test_a_server_that_is_not_there_is_one_clear_error(scheme: str) -> None:
    dsn = f"{scheme}://user:canary-password@127.0.0.1:{free_port()}/0"
    found = build_store(Config(limits=LimitsSettings(store=dsn, store_timeout_s=0.5)))
    with pytest.raises(LimitStoreError, match=r"limits: \w+ at 127\.0\.0\.1:") as caught:
        await found.open()
    assert "canary" not in str(caught.value)
    await found.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "levels"]),
        st.integers(0, 1200),
        st.integers(0, 12),
        st.integers(0, 40 * SECOND),
        st.integers(0, 7),
    ),
    max_size=25,
)


@pytest.mark.parametrize("seed", range(2))
async def test_every_store_answers_as_the_plainest_one(limit_store: LimitStore, seed: int) -> None:
    """The same steps, in the store and in memory: equal decisions and levels throughout."""
    for case in cases(seed):
        await compare(limit_store, case)


def cases(seed: int) -> list[list[tuple[str, int, int, int, int]]]:
    found: list[list[tuple[str, int, int, int, int]]] = []

    @settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def collect(steps: list[tuple[str, int, int, int, int]]) -> None:
        found.append(steps)

    collect()
    return found[seed::2]


async def compare(limit_store: LimitStore, steps: list[tuple[str, int, int, int, int]]) -> None:
    plain = MemoryStore()
    run = next(numbers)
    money = Bucket(f"money{run}", 1000, 0, 0)
    rate = Bucket(f"rate{run}", 10 * SCALE, 10, NOW + 10**10)
    made: list[tuple[Hold, list[Charge]]] = []
    now = NOW
    for what, amount, parts, pause, which in steps:
        now += pause
        if what == "reserve":
            one = hold(now, 60 * SECOND)
            charges = [Charge(money, amount), Charge(rate, parts * SCALE)]
            mine, theirs = (
                await limit_store.reserve(one, charges),
                await plain.reserve(one, charges),
            )
            assert mine == theirs
            if mine.admitted:
                made.append((one, charges))
        elif what == "settle" and made:
            one, charges = made.pop(which % len(made))
            used = [Settlement(charges[0], amount), Settlement(charges[1], parts * SCALE)]
            await limit_store.settle(one, used, now)
            await plain.settle(one, used, now)
        both = [money, rate]
        assert await limit_store.levels(both, now) == await plain.levels(both, now)
