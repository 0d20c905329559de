"""Latency that the gateway adds, at a steady rate that does not wait for answers."""

import asyncio
import contextlib
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway import wire
from gateway.gateways import Gateway, Upstreams
from gateway.load import Done, LoadError, Pool
from gateway.processes import raise_files

OF_CAPACITY = 0.6
SIZES = (1_000, 200_000)
# At once, until more bring less than `_GAIN` more a second.
_STEPS = (16, 32, 64, 128, 256)
_GAIN = 1.05
_CONNECTIONS, _FILES = 1_000, 8_192
_WARM_S = 0.5


@dataclass(frozen=True, eq=False)
class Place:
    """Where one kind of request goes."""

    url: str
    body: bytes
    headers: dict[str, str]
    stream: bool

    async def pool(self, count: int) -> Pool:
        """So many connections to it."""
        pool = Pool(self.url, self.body, self.headers, stream=self.stream, limit=count)
        await pool.open(count)
        return pool


@dataclass
class Times:
    """Milliseconds from the moment a request was due to its first byte of content and its end.

    `late` is how many found no free connection then; their wait counts.
    """

    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    late: int = 0

    def add(self, done: Done) -> None:
        """Another round.

        Raises:
            LoadError: A request failed: the others alone flatter.
        """
        if done.failed or not done.requests:
            raise LoadError(
                f"{done.failed} of {done.requests + done.failed} requests failed: {done.said}"
            )
        self.late += done.late
        self.first += done.first_ms
        self.total += done.total_ms


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed, by linear interpolation."""
    if len(values) < 2:
        raise LoadError("too few requests for a quantile")
    cuts = statistics.quantiles(values, n=1000, method="inclusive")
    return cuts[round(share * 1000) - 1]


def compared(direct: Times, through: Times) -> dict[str, Any]:
    """p50 and p99 of both, and their differences, in ms."""
    found: dict[str, Any] = {
        "requests": len(through.total),
        "late": through.late,
        "direct_late": direct.late,
    }
    for part in ("first", "total"):
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            with_us = quantile(getattr(through, part), share)
            without = quantile(getattr(direct, part), share)
            found[f"{part}_{name}_ms"] = round(with_us, 3)
            found[f"direct_{part}_{name}_ms"] = round(without, 3)
            found[f"added_{part}_{name}_ms"] = round(with_us - without, 3)
    return found


async def capacity(place: Place, seconds: float) -> tuple[float, int]:
    """Answers a second of the best closed loop, and how many were asked for at once.

    Raises:
        LoadError: A request failed.
    """
    best, at = 0.0, 0
    for count in _STEPS:
        pool = await place.pool(count)
        try:
            done = await pool.closed_loop(seconds)
        finally:
            await pool.close()
        if done.failed or not done.requests:
            raise LoadError(f"{done.failed} failed with {count} at once: {done.said}")
        rate = done.requests / done.seconds
        if rate < best * _GAIN:
            break
        best, at = rate, count
    return best, at


async def _one_kind(direct: Place, through: Place, seconds: float, rounds: int) -> dict[str, Any]:
    most, at_once = await capacity(through, min(seconds, 1.5))
    rate = OF_CAPACITY * most
    times = {direct: Times(), through: Times()}
    for _ in range(rounds):
        for place, found in times.items():
            pool = await place.pool(_CONNECTIONS)
            try:
                await pool.open_loop(rate, _WARM_S)
                pool.done = Done()
                with _no_garbage():
                    done = await pool.open_loop(rate, seconds)
            finally:
                await pool.close()
            found.add(done)
    return {
        "stream": through.stream,
        "prompt_bytes": len(through.body),
        "capacity_per_s": round(most, 1),
        "capacity_at_once": at_once,
        "rate_per_s": round(rate, 1),
    } | compared(times[direct], times[through])


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """No collection of ours meanwhile: with so many connections one took 30 to 50 ms."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def syncs(folder: Path, seconds: float = 2.0) -> dict[str, float]:
    """How long the disk under a folder takes to make a kilobyte durable, ms; nobody else writes."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while time.perf_counter() < until:
            file.write(bytes(1024))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return {
        "fsyncs": len(took),
        "p50_ms": round(quantile(took, 0.5), 3),
        "p99_ms": round(quantile(took, 0.99), 3),
        "max_ms": round(max(took), 3),
    }


def places(gateway: Gateway, upstreams: Upstreams, *, stream: bool, size: int) -> list[Place]:
    """The upstream itself, and the same through the gateway."""
    body = wire.request(stream=stream, size=size)
    upstream = upstreams.streams if stream else upstreams.whole
    json = {"Content-Type": "application/json"}
    url, headers = (
        (gateway.stream_url, gateway.stream_headers) if stream else (gateway.url, gateway.headers)
    )
    return [
        Place(f"http://{upstream}/v1/chat/completions", body, json, stream),
        Place(url, body, dict(headers), stream),
    ]


def measure(
    gateway: Gateway, upstreams: Upstreams, *, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Whole answers and streams, short and long prompts.

    Raises:
        LoadError: A request failed or could not be sent in time.
        StartError: This machine allows too few open files.
    """
    raise_files(_FILES)
    return [
        asyncio.run(
            _one_kind(*places(gateway, upstreams, stream=stream, size=size), seconds, rounds)
        )
        for stream in (False, True)
        for size in SIZES
    ]
