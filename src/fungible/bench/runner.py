"""Replays a trace against one backend, open loop, through the same dispatch as traffic."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import msgspec

from fungible.bench.arrivals import offsets
from fungible.bench.metrics import Summary, Timing, percentile, summarise
from fungible.bench.trace import Trace, TraceRow, synthesise
from fungible.contract.events import BenchEvent
from fungible.contract.ids import new_id
from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import frame_data, split_frames
from fungible.errors import InputError, UpstreamError
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher

Progress = Callable[[int, int], None]
MAX_SEND_LAG_MS = 500.0
MAX_LOOP_LAG_MS = 250.0
_TICK_S = 0.02


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run against one backend.

    Attributes:
        scenario: `replay` (open loop at the trace's times) or `saturate` (closed loop).
        binding: What the backend was, as its attempts say.
        invalid: Why the numbers must not be used, one sentence each.
        loop_lag_p99_ms: How late this client's own event loop woke up.
    """

    run_id: str
    scenario: str
    trace: str
    trace_hash: str
    backend: str
    binding: str
    speed: float = 1.0
    concurrency: int = 0
    valid: bool
    invalid: list[str]
    loop_lag_p99_ms: float
    summary: Summary
    timings: list[Timing]


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the requests of one run share."""

    dispatcher: Dispatcher
    trace: Trace
    backend: str
    model: str
    run_id: str
    began: float

    def now(self) -> float:
        return time.perf_counter() - self.began


async def replay(
    dispatcher: Dispatcher,
    trace: Trace,
    backend: str,
    *,
    model: str,
    run_id: str,
    speed: float = 1.0,
    progress: Progress | None = None,
    spool: SpoolWriter | None = None,
) -> BenchResult:
    """Send every request of the trace at its own time, whether or not earlier ones answered.

    Answers stream and are cut at the recorded length. The summary is recorded as a
    `BenchEvent`. One process of this client is good for about 50 requests a second; beyond
    its means the run says that it is invalid.

    Args:
        dispatcher: Started; sends with `kind="bench"` to exactly `backend`.
        trace: What to replay.
        backend: Its name in the configuration.
        model: The model's name, as applications know it.
        run_id: Groups the records of this run.
        speed: 2 sends twice as fast.
        progress: Called with (requests done, all requests).
        spool: Where the record goes; the dispatcher's own when not given.

    Raises:
        InputError: The speed is not positive.
        UnavailableError: The backend is not configured.
    """
    due = offsets(trace, speed)
    job = _job(dispatcher, trace, backend, model, run_id)
    timings: list[tuple[Timing, str]] = []

    async def one(at: int) -> None:
        await asyncio.sleep(max(0.0, due[at] - job.now()))
        timings.append(await _send(job, at, due[at]))
        if progress is not None:
            progress(len(timings), len(trace.rows))

    async with _loop_lag() as lags:
        await _all(one(at) for at in range(len(trace.rows)))
    result = _result(job, "replay", timings, lags, speed=speed)
    await (spool or dispatcher.spool).commit(_event(result))
    return result


async def saturate(
    dispatcher: Dispatcher,
    trace: Trace,
    backend: str,
    *,
    concurrency: int,
    model: str,
    run_id: str,
    progress: Progress | None = None,
) -> BenchResult:
    """Keep `concurrency` requests of the trace in flight, whatever their recorded times.

    The sticker price of a million tokens needs the rate at full load; latency under a closed
    loop says little and is not recorded. `summary.tokens_per_s` counts output tokens,
    `summary.total_tokens_per_s` input and output.

    Raises:
        InputError: `concurrency` is below 1.
        UnavailableError: The backend is not configured.
    """
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}; it must be at least 1")
    job = _job(dispatcher, trace, backend, model, run_id)
    timings: list[tuple[Timing, str]] = []
    waiting = iter(range(len(trace.rows)))

    async def work(rows: Iterator[int]) -> None:
        for at in rows:
            timings.append(await _send(job, at, job.now()))
            if progress is not None:
                progress(len(timings), len(trace.rows))

    async with _loop_lag() as lags:
        await _all(work(waiting) for _ in range(min(concurrency, len(trace.rows))))
    return _result(job, "saturate", timings, lags, concurrency=concurrency)


def _job(dispatcher: Dispatcher, trace: Trace, backend: str, model: str, run_id: str) -> _Job:
    return _Job(
        dispatcher=dispatcher,
        trace=trace,
        backend=backend,
        model=model,
        run_id=run_id,
        began=time.perf_counter(),
    )


async def _all(tasks: Iterator[Coroutine[None, None, None]]) -> None:
    """Run together; the first error ends the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


async def _send(job: _Job, at: int, due: float) -> tuple[Timing, str]:
    """One request's timing, and the binding of the backend that answered."""
    sent, item_id = job.now(), str(at)
    first = last = None
    try:
        dispatched = await job.dispatcher.dispatch(_request(job, at), backend=job.backend)
        try:
            async for events in dispatched.chunks():
                if any(map(_has_content, split_frames(events))):
                    last = job.now()
                    first = last if first is None else first
        finally:
            await dispatched.aclose()
    except UpstreamError as error:
        failed = Timing(
            item_id=item_id, due=due, sent=sent, first=first, ended=job.now(), error=error.message
        )
        return failed, ""
    attempt = dispatched.attempt
    assert attempt is not None  # noqa: S101  # the body was read to its end
    timing = Timing(
        item_id=item_id,
        due=due,
        sent=sent,
        first=first,
        last=last,
        ended=job.now(),
        input_tokens=sum(
            count or 0
            for count in (attempt.in_uncached, attempt.in_cache_read, attempt.in_cache_write)
        ),
        output_tokens=(attempt.out_visible or 0) + (attempt.out_reasoning or 0),
        error="" if first is not None else "no content in the answer",
    )
    return timing, attempt.binding


def _request(job: _Job, at: int) -> InferenceRequest:
    row: TraceRow = job.trace.rows[at]
    return InferenceRequest(
        request_id=new_id("req_"),
        model=job.model,
        body={
            "model": job.model,
            "messages": [{"role": "user", "content": synthesise(job.trace, row)}],
            "max_tokens": row.output_length,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        stream=True,
        kind="bench",
        run_id=job.run_id,
        item_id=str(at),
    )


def _has_content(frame: bytes) -> bool:
    data = frame_data(frame)
    if data is None or data == b"[DONE]":
        return False
    try:
        chunk = msgspec.json.decode(data, type=_Chunk)
    except msgspec.DecodeError:
        return False
    return any(choice.delta.content for choice in chunk.choices)


@contextlib.asynccontextmanager
async def _loop_lag() -> AsyncIterator[list[float]]:
    """Milliseconds by which the event loop woke up late, collected while the body runs."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            lags.append(1000 * (time.perf_counter() - before - _TICK_S))

    watcher = asyncio.create_task(watch())
    try:
        yield lags
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


def _result(
    job: _Job,
    scenario: str,
    sent: list[tuple[Timing, str]],
    lags: list[float],
    *,
    speed: float = 1.0,
    concurrency: int = 0,
) -> BenchResult:
    timings = sorted((timing for timing, _ in sent), key=lambda timing: int(timing.item_id))
    summary = summarise(timings)
    loop_lag = percentile(lags, 99)
    invalid = []
    if summary.failed == summary.requests:
        invalid.append(f"every request failed, the first with: {timings[0].error}")
    if scenario == "replay" and summary.send_lag_p99_ms > MAX_SEND_LAG_MS:
        invalid.append(
            f"requests went out up to {summary.send_lag_p99_ms:.0f} ms late (p99, limit "
            f"{MAX_SEND_LAG_MS:.0f}): this machine cannot send the trace on time"
        )
    if loop_lag > MAX_LOOP_LAG_MS:
        invalid.append(
            f"the client's event loop woke up {loop_lag:.0f} ms late (p99, limit "
            f"{MAX_LOOP_LAG_MS:.0f}): its times are not the backend's"
        )
    return BenchResult(
        run_id=job.run_id,
        scenario=scenario,
        trace=job.trace.name,
        trace_hash=job.trace.trace_hash,
        backend=job.backend,
        binding=next((binding for _, binding in sent if binding), ""),
        speed=speed,
        concurrency=concurrency,
        valid=not invalid,
        invalid=invalid,
        loop_lag_p99_ms=loop_lag,
        summary=summary,
        timings=timings,
    )


def _event(result: BenchResult) -> BenchEvent:
    summary = result.summary
    return BenchEvent(
        run_id=result.run_id,
        trace=result.trace,
        backend=result.backend,
        binding=result.binding,
        requests=summary.requests,
        failed=summary.failed,
        valid=result.valid,
        ttft_p50_ms=summary.ttft_p50_ms,
        ttft_p99_ms=summary.ttft_p99_ms,
        tokens_per_s=summary.tokens_per_s,
        wall_s=summary.wall_s,
        at_ns=time.time_ns(),
    )
