import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fungible.bench import runner
from fungible.bench.compare import compare
from fungible.bench.runner import replay, saturate
from fungible.bench.trace import Trace, load_trace, parse_trace
from fungible.config import BackendSettings, Config, binding_of
from fungible.contract.events import AttemptEvent, BenchEvent
from fungible.errors import InputError, UnavailableError
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher
from support.scripted_upstream import scripted_upstream
from support.spool_records import spool_records

FAST = {"tokens": 4}


@asynccontextmanager
async def dispatcher(
    home: Path, **backends: BackendSettings | dict[str, Any]
) -> AsyncIterator[Dispatcher]:
    settings = {
        name: one if isinstance(one, BackendSettings) else BackendSettings(kind="null", options=one)
        for name, one in backends.items()
    }
    config = Config(home=str(home), backend=settings)
    spool = SpoolWriter(config.spool_path(), "bench")
    made = Dispatcher(config=config, spool=spool)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
        spool.close()


def trace_of(*timestamps: int, output_length: int = 4) -> Trace:
    rows = [
        b'{"timestamp": %d, "input_length": 6, "output_length": %d}' % (at, output_length)
        for at in timestamps
    ]
    return parse_trace(b"\n".join(rows), "t", "t")


async def test_every_request_of_the_trace_is_sent_and_recorded(tmp_path: Path) -> None:
    def words(body: dict[str, Any]) -> str:
        return "w " * body["max_tokens"]

    trace = load_trace("everyday")
    async with (
        scripted_upstream(words) as (url, seen),
        dispatcher(tmp_path, b=BackendSettings(url=url)) as it,
    ):
        result = await replay(it, trace, "b", model="m", run_id="r1", speed=40)
        binding = binding_of("b", it.config.backend["b"])
    summary = result.summary
    assert (summary.requests, summary.failed) == (40, 0)
    assert summary.output_tokens == sum(row.output_length for row in trace.rows)
    assert summary.input_tokens == sum(row.input_length for row in trace.rows)
    assert all(body["stream"] for body in seen)
    assert result.binding == binding
    rows = spool_records(tmp_path / "spool", AttemptEvent)
    assert {(row.kind, row.run_id) for row in rows} == {("bench", "r1")}
    assert {row.item_id for row in rows} == {str(at) for at in range(40)}
    (event,) = spool_records(tmp_path / "spool", BenchEvent)
    assert (event.trace, event.backend, event.requests) == ("everyday", "b", 40)
    assert event.tokens_per_s == summary.tokens_per_s


async def test_the_loop_is_open(tmp_path: Path) -> None:
    """Requests go out while earlier ones are still waiting for their first token."""
    async with dispatcher(tmp_path, b=FAST | {"ttft_ms": 300}) as it:
        result = await replay(it, trace_of(0, 20, 40, 60), "b", model="m", run_id="r")
    sent = [timing.sent for timing in result.timings]
    first = [timing.first or 0.0 for timing in result.timings]
    assert max(sent) < min(first)
    assert result.summary.ttft_p50_ms >= 300


async def test_waiting_for_a_slot_is_part_of_the_latency(tmp_path: Path) -> None:
    """No coordinated omission: what a full backend makes wait, waits on its account."""
    one_at_a_time = BackendSettings(kind="null", max_concurrency=1, options=FAST | {"ttft_ms": 100})
    async with dispatcher(tmp_path, b=one_at_a_time) as it:
        result = await replay(it, trace_of(0, 0, 0, 0), "b", model="m", run_id="r")
    waits = sorted((timing.first or 0.0) - timing.due for timing in result.timings)
    assert waits[-1] >= 0.4
    assert waits[0] < waits[-1] / 2


async def test_a_client_that_blocks_invalidates_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_LOOP_LAG_MS", 50.0)
    monkeypatch.setattr(runner, "MAX_SEND_LAG_MS", 50.0)

    async def block() -> None:
        await asyncio.sleep(0.05)
        time.sleep(0.4)  # noqa: ASYNC251  # on purpose

    async with dispatcher(tmp_path, b=FAST) as it:
        blocker = asyncio.create_task(block())
        result = await replay(it, trace_of(0, 100, 200), "b", model="m", run_id="r")
        await blocker
    assert not result.valid
    assert "this machine cannot send the trace on time" in result.invalid[0]
    assert "event loop woke up" in result.invalid[1]
    (event,) = spool_records(tmp_path / "spool", BenchEvent)
    assert not event.valid


async def test_failures_are_counted(tmp_path: Path) -> None:
    async with dispatcher(tmp_path, b=FAST | {"fail_rate": 0.5}) as it:
        result = await replay(it, trace_of(*range(10)), "b", model="m", run_id="r")
    assert (result.summary.requests, result.summary.failed) == (10, 5)
    assert result.summary.output_tokens == 5 * 4


async def test_a_broken_stream_is_a_failure(tmp_path: Path) -> None:
    async with dispatcher(tmp_path, b=FAST | {"cut_after": 2}) as it:
        result = await replay(it, trace_of(0, 1), "b", model="m", run_id="r")
    assert result.summary.failed == 2
    assert not result.valid
    assert "every request failed" in result.invalid[0]


async def test_saturate_keeps_so_many_in_flight(tmp_path: Path) -> None:
    trace = trace_of(*[0] * 12)
    async with dispatcher(tmp_path, b=FAST | {"ttft_ms": 50}) as it:
        slow = await saturate(it, trace, "b", concurrency=1, model="m", run_id="r")
        fast = await saturate(it, trace, "b", concurrency=6, model="m", run_id="r")
    assert slow.summary.output_tokens == fast.summary.output_tokens == 48
    assert fast.summary.tokens_per_s > 2 * slow.summary.tokens_per_s
    assert fast.summary.total_tokens_per_s > fast.summary.tokens_per_s
    overlapping = [
        sum(other.sent <= one.sent < other.ended for other in fast.timings) for one in fast.timings
    ]
    assert max(overlapping) == 6


async def test_compare_sees_the_faster_backend(tmp_path: Path) -> None:
    slow, fast = FAST | {"ttft_ms": 40}, FAST | {"ttft_ms": 10}
    async with dispatcher(tmp_path, a=slow, b=fast) as it:
        result = await compare(
            it, trace_of(*[0] * 8), "a", "b", model="m", run_id="r", blocks=3, concurrency=2
        )
    assert result.ratio.value > 1.5
    assert len(result.ratio.blocks) == 3


async def test_compare_needs_numbers_from_both(tmp_path: Path) -> None:
    async with dispatcher(tmp_path, a=FAST, b=FAST | {"fail_rate": 1}) as it:
        with pytest.raises(UnavailableError, match="backend b: every request failed"):
            await compare(it, trace_of(0, 0), "a", "b", model="m", run_id="r")
        with pytest.raises(InputError, match="blocks"):
            await compare(it, trace_of(0, 0), "a", "b", model="m", run_id="r", blocks=1)


async def test_bad_input_is_one_error(tmp_path: Path) -> None:
    async with dispatcher(tmp_path, b=FAST) as it:
        with pytest.raises(InputError, match="speed"):
            await replay(it, trace_of(0), "b", model="m", run_id="r", speed=0)
        with pytest.raises(InputError, match="concurrency"):
            await saturate(it, trace_of(0), "b", concurrency=0, model="m", run_id="r")
        with pytest.raises(UnavailableError, match="nobody"):
            await replay(it, trace_of(0, 5), "nobody", model="m", run_id="r")
