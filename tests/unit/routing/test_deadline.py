"""A deadline ends a block for the whole time, or for silence; our own silence does not count."""

import asyncio

import pytest

from fungible.routing.deadline import Deadline


def deadline(when_s: float, idle_s: float | None = None) -> Deadline:
    return Deadline(asyncio.get_running_loop().time() + when_s, idle_s)


async def test_silence_ends_a_block() -> None:
    one = deadline(60, 0.05)
    with pytest.raises(TimeoutError), one:
        await asyncio.sleep(30)
    assert one.silent


async def test_the_whole_time_ends_a_block_in_which_something_comes() -> None:
    one = deadline(0.3, 0.2)

    async def talk() -> None:
        with one:
            while True:
                await asyncio.sleep(0.01)
                one.heard()

    with pytest.raises(TimeoutError):
        await talk()
    assert not one.silent


async def test_time_between_blocks_is_no_silence() -> None:
    one = deadline(60, 0.05)
    await asyncio.sleep(0.15)
    for _ in range(3):
        with one:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
    one.stop()
    assert not one.silent


async def test_while_it_is_held_there_is_no_silence() -> None:
    one = deadline(60, 0.1)
    lasted = []

    async def held() -> None:
        with one:
            one.hold(True)
            await asyncio.sleep(0.4)
            one.hold(False)
            lasted.append(True)
            await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        await held()
    assert lasted
    assert one.silent
