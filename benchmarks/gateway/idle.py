"""Many idle streams at once on one worker: what each holds in memory, and what waiting costs."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

from gateway import overhead, wire
from gateway.gateways import Gateway, Upstreams, fungible
from gateway.load import LoadError, Pool
from gateway.processes import raise_files, running

STREAMS = 5_000
_BATCH, _BATCHES_PER_S = 100, 8
_WARM = 200
_WATCH_S, _SETTLE_S = 8.0, 2.0
# To start late streams and to look, before the first one goes on.
_SPARE_S, _PATIENCE_S = 25.0, 120.0
SCRIPT = Path(__file__).with_name("stream_upstream.py")


def measure(
    streams: int, upstreams: Upstreams, home: Path, *, watch_s: float = _WATCH_S
) -> dict[str, Any]:
    """Each stream says a word and pauses; all of them pause at once, then all go on to their end.

    Raises:
        LoadError: One failed, ended early, or has no row.
        StartError: This machine allows too few open files, or a server did not start.
    """
    raise_files(2 * streams + 1_000)  # a worker has two sockets for each
    pause_s = streams / _BATCH / _BATCHES_PER_S + _SPARE_S
    command = [sys.executable, SCRIPT, "--idle-s", f"{pause_s:g}", "--interval-ms", "20"]
    with running(command, home / "idle.log") as upstream:
        where = Upstreams(whole=upstreams.streams, streams=f"127.0.0.1:{upstream.said['port']}")
        with fungible(where, home) as gateway:
            found = asyncio.run(_watch(gateway, streams, watch_s))
        assert gateway.spool is not None
        found["rows"] = overhead.rows_in(gateway.spool)
    if found["rows"] < streams + _WARM:
        raise LoadError(f"{streams + _WARM} streams have {found['rows']} rows")
    return found


async def _watch(gateway: Gateway, streams: int, watch_s: float) -> dict[str, Any]:
    await _warm(gateway)
    server = gateway.server
    before_mb = server.rss_mb()
    body, headers = wire.request(stream=True), gateway.stream_headers
    pool = Pool(gateway.stream_url, body, headers, stream=True, limit=streams)
    try:
        for at in range(0, streams, _BATCH):
            await pool.open(min(_BATCH, streams - at))
            pool.ask_once()
            await asyncio.sleep(1 / _BATCHES_PER_S)
        await _all_began(pool, streams)
        await asyncio.sleep(_SETTLE_S)
        began_s = server.cpu_s()
        await asyncio.sleep(watch_s)
        used_s, idle_mb = server.cpu_s() - began_s, server.rss_mb()
        if pool.done.requests or pool.done.failed:
            raise LoadError(
                f"{pool.done.requests} streams ended and {pool.done.failed} failed before all "
                "were idle"
            )
        await pool.settle(_PATIENCE_S)
    finally:
        await pool.close()
    if pool.done.failed or pool.done.requests != streams:
        raise LoadError(f"{pool.done.requests} of {streams} streams ended well: {pool.done.said}")
    return {
        "streams": streams,
        "ended": pool.done.requests,
        "before_mb": round(before_mb, 1),
        "idle_mb": round(idle_mb, 1),
        "after_mb": round(server.rss_mb(), 1),
        "kb_per_stream": round((idle_mb - before_mb) * 1000 / streams, 2),
        "idle_cpu_percent": round(used_s / watch_s * 100, 2),
    }


async def _warm(gateway: Gateway) -> None:
    """Code and caches that the first streams bring in are not what one more stream costs."""
    body = wire.request(stream=True)
    body = body.replace(f'"{wire.STREAM_MODEL}"'.encode(), f'"{wire.MODEL}"'.encode())
    pool = Pool(gateway.url, body, gateway.headers, stream=True, limit=_WARM)
    await pool.open(_WARM)
    pool.ask_once()
    await pool.settle()
    await pool.close()
    if pool.done.requests != _WARM:
        raise LoadError(f"{pool.done.failed} of {_WARM} streams failed: {pool.done.said}")


async def _all_began(pool: Pool, streams: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SPARE_S):
            while len(pool.done.first_ms) < streams and not pool.done.failed:  # noqa: ASYNC110  # ends once
                await asyncio.sleep(0.05)
    if (began := len(pool.done.first_ms)) < streams:
        raise LoadError(f"{began} of {streams} streams began: {pool.done.said}")
