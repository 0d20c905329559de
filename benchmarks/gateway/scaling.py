"""Whole answers a second with one worker process, with two, and so on."""

import statistics
from pathlib import Path
from typing import Any

import psutil

from gateway import wire
from gateway.gateways import Upstreams, fungible
from gateway.load import wrk

# wrk and the instant upstream each keep up to one core.
_BESIDE = 2


def measure(
    counts: list[int], upstreams: Upstreams, home: Path, *, seconds: float, rounds: int
) -> dict[str, Any]:
    """Every number of workers, each with a gateway of its own.

    Raises:
        LoadError: A request failed.
        StartError: A gateway did not start.
    """
    cores = psutil.cpu_count() or 1
    rows = [_row(count, upstreams, home / str(count), seconds, rounds) for count in counts]
    for row in rows:
        row["over_first"] = round(row["requests_per_s"] / rows[0]["requests_per_s"], 2)
    return {
        "cores": cores,
        # The load and the upstream then take from the workers what they need.
        "cores_shared": cores < max(counts) + _BESIDE,
        "workers": rows,
    }


def _row(
    count: int, upstreams: Upstreams, home: Path, seconds: float, rounds: int
) -> dict[str, Any]:
    body, rates, cpu, busy = wire.request(stream=False), [], [], []
    with fungible(upstreams, home, "--workers", str(count)) as gateway:
        wrk(gateway.url, body, gateway.headers, min(2.0, seconds), home)
        for _ in range(rounds):
            before = gateway.server.cpu_s()
            done = wrk(gateway.url, body, gateway.headers, seconds, home)
            used = gateway.server.cpu_s() - before
            rates.append(done["requests"] / done["seconds"])
            cpu.append(used / done["requests"] * 1e6)
            busy.append(used / done["seconds"])
        rss = gateway.server.rss_mb()
    return {
        "workers": count,
        "requests_per_s": round(statistics.median(rates)),
        "range_per_s": [round(min(rates)), round(max(rates))],
        "cpu_us_per_request": round(statistics.median(cpu), 1),
        "cores_used": round(statistics.median(busy), 2),
        "rss_mb": round(rss, 1),
    }
