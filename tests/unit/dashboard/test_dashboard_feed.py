"""One poll for all viewers, and no reading that can end it."""

import asyncio
import threading
from collections.abc import Callable

import msgspec
import pytest

from fungible.dashboard.feed import Feed, Frame
from fungible.dashboard.snapshot import Snapshot, Totals
from fungible.errors import UnavailableError


class Readings:
    """Counts its calls; `then` is what the next call does."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.calls = 0
        self.then = then

    def __call__(self) -> Snapshot:
        self.calls += 1
        self.then()
        return Snapshot(at_ms=self.calls, totals=Totals())


def at_ms(frame: Frame) -> int:
    return int(msgspec.json.decode(frame.body)["at_ms"])


async def take(feed: Feed, wanted: int) -> list[Frame]:
    frames = []
    watching = feed.watch(asyncio.Event())
    async for frame in watching:
        frames.append(frame)
        if len(frames) == wanted:
            break
    await watching.aclose()
    return frames


async def test_all_viewers_share_one_poll() -> None:
    read = Readings()
    feed = Feed(read, interval=0.05)
    seen = await asyncio.gather(*(take(feed, 4) for _ in range(20)))
    assert [at_ms(frame) for frame in seen[0]] == [1, 2, 3, 4]
    assert all(frames[-1].body == seen[0][-1].body for frames in seen)
    assert read.calls <= 5


async def test_nobody_watching_means_no_reading() -> None:
    read = Readings()
    feed = Feed(read, interval=0.01)
    await take(feed, 2)
    await asyncio.sleep(0.05)
    before = read.calls
    await asyncio.sleep(0.1)
    assert read.calls == before


async def test_a_viewer_who_returns_gets_fresh_numbers() -> None:
    feed = Feed(Readings(), interval=0.01)
    [first] = await take(feed, 1)
    await asyncio.sleep(0.1)
    [second] = await take(feed, 1)
    assert at_ms(second) > at_ms(first)


def refuse() -> None:
    raise UnavailableError("the ledger is closed", hint="open it")


def crash() -> None:
    raise ZeroDivisionError("a defect")


@pytest.mark.parametrize(
    ("fault", "message"),
    [(refuse, "the ledger is closed"), (crash, "ZeroDivisionError: a defect")],
)
async def test_a_failed_reading_is_told_and_the_feed_recovers(
    fault: Callable[[], None], message: str
) -> None:
    read = Readings(fault)
    feed = Feed(read, interval=0.02)
    watching = feed.watch(asyncio.Event())
    trouble = await anext(watching)
    assert not trouble.ok
    assert msgspec.json.decode(trouble.body)["message"] == message
    assert trouble.event().startswith(b"event: trouble\ndata: {")
    read.then = lambda: None
    frame = await anext(watching)
    while not frame.ok:
        frame = await anext(watching)
    assert frame.event().startswith(b"event: snapshot\ndata: {")
    await watching.aclose()


async def test_a_slow_reading_is_told_while_it_runs() -> None:
    release = threading.Event()
    feed = Feed(Readings(lambda: assert_set(release)), interval=0.01, slow=0.05)
    watching = feed.watch(asyncio.Event())
    slow = await anext(watching)
    assert b"has not answered for" in slow.body
    release.set()
    frame = await anext(watching)
    while not frame.ok:
        frame = await anext(watching)
    assert at_ms(frame) == 1
    await watching.aclose()


def assert_set(event: threading.Event) -> None:
    assert event.wait(20)


async def test_the_stop_signal_ends_every_stream() -> None:
    stop = asyncio.Event()
    feed = Feed(Readings(), interval=60)

    async def watch() -> int:
        return len([frame async for frame in feed.watch(stop)])

    watching = [asyncio.create_task(watch()) for _ in range(3)]
    await feed.latest()
    await asyncio.sleep(0.05)
    stop.set()
    assert await asyncio.wait_for(asyncio.gather(*watching), 5) == [1, 1, 1]


async def test_simultaneous_single_readings_are_one() -> None:
    read = Readings()
    feed = Feed(read, interval=60)
    frames = await asyncio.gather(*(feed.latest() for _ in range(10)))
    assert read.calls == 1
    assert {at_ms(frame) for frame in frames} == {1}
