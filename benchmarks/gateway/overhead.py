"""CPU time per request and per streamed chunk, gateway by gateway."""

import asyncio
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fungible.contract.events import AttemptEvent
from fungible.ledger.segments import read_spool
from gateway import wire
from gateway.gateways import Gateway
from gateway.load import CONNECTIONS, LoadError, Pool, wrk


@dataclass
class Sample:
    """Rounds of one gateway.

    Attributes:
        request_us: CPU time of its processes per request, one a round.
        stream_us: The same per stream of `wire.CHUNKS` events.
        rows: Requests that were recorded, of those answered; `None` where nothing is.
    """

    version: str = ""
    request_us: list[float] = field(default_factory=list)
    stream_us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    rss_mb: float = 0.0
    asked: int = 0
    rows: int | None = None
    failed: str = ""
    streams_failed: str = ""

    def result(self) -> dict[str, Any]:
        """Medians, the range over rounds, and what the sample is worth."""
        if self.failed:
            return {"failed": self.failed, "version": self.version}
        found: dict[str, Any] = {"version": self.version, "rss_mb": round(self.rss_mb, 1)}
        if self.request_us:
            found["cpu_us_per_request"] = round(statistics.median(self.request_us), 1)
            found["range_us_per_request"] = [
                round(min(self.request_us), 1),
                round(max(self.request_us), 1),
            ]
        if self.rate:
            found |= {
                "requests_per_s": round(statistics.median(self.rate)),
                "p50_ms": round(statistics.median(self.p50_ms), 2),
                "p99_ms": round(statistics.median(self.p99_ms), 2),
            }
        if self.stream_us:
            per_chunk = [one / wire.CHUNKS for one in self.stream_us]
            found["cpu_us_per_stream"] = round(statistics.median(self.stream_us), 1)
            found["cpu_us_per_chunk"] = round(statistics.median(per_chunk), 2)
            found["range_us_per_chunk"] = [round(min(per_chunk), 2), round(max(per_chunk), 2)]
        if self.streams_failed:
            found["streams_failed"] = self.streams_failed
        if self.rows is not None:
            found |= {"answered": self.asked, "rows": self.rows}
        return found


def measure(gateway: Gateway, sample: Sample, home: Path, *, seconds: float, rounds: int) -> None:
    """Whole answers, then streams, after a warm-up of each.

    Raises:
        LoadError: It did not answer everything as it should.
    """
    sample.version = gateway.version
    body = wire.request(stream=False)
    warm = wrk(gateway.url, body, gateway.headers, min(2.0, seconds), home)
    sample.asked += int(warm["requests"])
    for _ in range(rounds):
        before = gateway.server.cpu_s()
        done = wrk(gateway.url, body, gateway.headers, seconds, home)
        used = gateway.server.cpu_s() - before
        sample.request_us.append(used / done["requests"] * 1e6)
        sample.rate.append(done["requests"] / done["seconds"])
        sample.p50_ms.append(done["p50_ms"])
        sample.p99_ms.append(done["p99_ms"])
        sample.asked += int(done["requests"])
    try:
        _measure_streams(gateway, sample, seconds, rounds)
    except LoadError as error:
        if gateway.spool is not None:
            raise
        # A peer that cannot stream still has a figure for whole answers.
        sample.streams_failed = str(error)
    sample.rss_mb = gateway.server.rss_mb()


def _measure_streams(gateway: Gateway, sample: Sample, seconds: float, rounds: int) -> None:
    for at in range(rounds + 1):
        before = gateway.server.cpu_s()
        count = asyncio.run(_streams(gateway, 1.0 if at == 0 else seconds))
        if at:
            sample.stream_us.append((gateway.server.cpu_s() - before) / count * 1e6)
        sample.asked += count


async def _streams(gateway: Gateway, seconds: float) -> int:
    """`CONNECTIONS` streams at once for a while; how many were complete."""
    pool = Pool(
        gateway.stream_url,
        wire.request(stream=True),
        gateway.stream_headers,
        stream=True,
        limit=CONNECTIONS,
    )
    await pool.open(CONNECTIONS)
    try:
        done = await pool.closed_loop(seconds)
    finally:
        await pool.close()
    if done.failed or not done.requests:
        raise LoadError(f"{done.failed} streams failed, {done.requests} did not: {done.said}")
    return done.requests


def rows_in(spool: Path) -> int:
    """Attempts on disk that were answered and whose tokens are known."""
    return sum(
        part.status == "ok" and part.usage_source == "provider_final"
        for part in read_spool(spool)
        if isinstance(part, AttemptEvent)
    )
