"""Clients that leave, disks that are full, and how many calls a backend takes at once."""

import asyncio
import contextlib

import pytest

from fungible.config import BackendSettings, GatewaySettings, LedgerSettings
from fungible.contract.sse import DONE
from fungible.errors import DiskError, QueueTimeoutError
from fungible.routing.answer import Dispatched
from support.dispatching import Make, Setup, read, request, route
from support.upstream import Script, Upstream

SLOW = Script(words=("a",) * 1000, word_s=0.02)


def fill_disk(setup: Setup) -> None:
    """Nothing can be written where the spool was."""
    setup.spool.folder.rmdir()
    setup.spool.folder.touch()


async def test_a_reader_that_is_cancelled_cancels_the_call(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = SLOW
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        reading = asyncio.create_task(setup.ask(request(), route=route()))
        await upstream.arrived(1)
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)
        (row,) = await setup.settled()
        assert (row.status, row.usage_source, row.finish_reason) == ("cancelled", "estimated", "")
        assert row.output_chars


async def test_an_answer_that_nobody_reads_is_cancelled(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = SLOW
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        answer = await setup.dispatcher.dispatch(request(), route=route())
        await answer.aclose()
        await answer.aclose()
        await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)
        assert [row.status for row in await setup.settled()] == ["cancelled"]


async def test_leaving_before_the_first_token_is_recorded(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=30)
    async with dispatching(a=BackendSettings(url=upstream.url), b={}) as setup:
        waiting = asyncio.create_task(setup.dispatcher.dispatch(request(), route=route("b")))
        await upstream.arrived(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)
        (row,) = await setup.settled()
        assert (row.status, row.backend, row.first_token_ns) == ("cancelled", "a", None)


@pytest.mark.parametrize("stream", [True, False])
async def test_without_a_row_the_end_of_an_answer_is_withheld(
    dispatching: Make, stream: bool
) -> None:
    async with dispatching(a={"text": "one two"}) as setup:
        fill_disk(setup)
        answer = await setup.dispatcher.dispatch(request(stream=stream), route=route())
        got: list[bytes] = []
        with pytest.raises(DiskError):
            await collect(answer, got)
        assert DONE not in got
        assert bool(got) == stream
        assert answer.attempt is None
        setup.spool.folder.unlink()


async def collect(answer: Dispatched, into: list[bytes]) -> None:
    async for chunk in answer.chunks():
        into.append(chunk)


async def test_a_failure_that_cannot_be_recorded_is_a_disk_error(dispatching: Make) -> None:
    async with dispatching(a={"fail_rate": 1.0}, b={}) as setup:
        fill_disk(setup)
        with pytest.raises(DiskError):
            await setup.dispatcher.dispatch(request(), route=route("b"))
        setup.spool.folder.unlink()


async def test_while_rows_cannot_be_written_nothing_is_sent(
    dispatching: Make, upstream: Upstream
) -> None:
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        fill_disk(setup)
        with pytest.raises(DiskError, match="cannot be recorded"):
            await setup.ask(request(), route=route())
        assert setup.spool.full
        for _ in range(3):
            with pytest.raises(DiskError, match="cannot be recorded"):
                await setup.dispatcher.dispatch(request(), route=route())
        assert len(upstream.requests) == 1
        assert setup.dispatcher.rows_lost == 1
        setup.spool.folder.unlink()


async def test_where_answers_go_on_a_lost_row_stops_neither_fallback_nor_end(
    dispatching: Make,
) -> None:
    serve = LedgerSettings(on_disk_full="serve")
    async with dispatching(a={"fail_rate": 1.0}, b={"text": "one two"}, ledger=serve) as setup:
        fill_disk(setup)
        answer = await setup.dispatcher.dispatch(request(), route=route("b", retries=0))
        assert (await read(answer))[-1].endswith(DONE)
        assert not answer.recorded
        assert setup.dispatcher.rows_lost == 2
        setup.spool.folder.unlink()
        setup.spool.folder.mkdir()
        again = await setup.dispatcher.dispatch(request(), route=route(reference="b"))
        await read(again)
        assert again.recorded
        assert [row.backend for row in setup.rows()] == ["b"]


async def test_a_backend_never_gets_more_than_it_takes(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=0.02)
    one = BackendSettings(url=upstream.url, max_concurrency=3)
    async with dispatching(a=one) as setup:
        await asyncio.gather(
            *(setup.ask(request(stream=at % 2 == 0), route=route()) for at in range(20))
        )
        assert len(setup.rows()) == 20
    assert upstream.most_active <= 3


async def test_slots_come_back_however_a_call_ends(dispatching: Make, upstream: Upstream) -> None:
    limits = GatewaySettings(first_token_timeout_s=5)
    one = BackendSettings(url=upstream.url, max_concurrency=1)
    async with dispatching(limits=limits, a=one) as setup:
        for script in (Script(status=400), Script(cut_after=1), Script(reset_after=0), SLOW):
            upstream.default = script
            with contextlib.suppress(Exception):
                answer = await setup.dispatcher.dispatch(request(), route=route(retries=0))
                if script is SLOW:
                    await answer.aclose()
                else:
                    await read(answer)
        upstream.default = Script()
        await setup.ask(request(), route=route())
        assert (await setup.settled())[-1].status == "ok"


async def test_waiting_too_long_for_a_slot_goes_to_the_fallback(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = SLOW
    limits = GatewaySettings(first_token_timeout_s=0.3)
    one = BackendSettings(url=upstream.url, max_concurrency=1)
    async with dispatching(limits=limits, a=one, b={}) as setup:
        held = await setup.dispatcher.dispatch(request(), route=route())
        await setup.ask(request(request_id="req_2"), route=route("b", retries=0))
        assert [(row.backend, row.error_code) for row in setup.rows()] == [
            ("a", QueueTimeoutError.code),
            ("b", ""),
        ]
        await held.aclose()
    assert len(upstream.requests) == 1
