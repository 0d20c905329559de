"""What is measured of ours alone, after the peers: latency, scaling, idle streams."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gateway import idle, latency, scaling
from gateway.gateways import Upstreams, fungible
from gateway.load import LoadError
from gateway.processes import StartError

PARTS = ("latency", "scaling", "idle")


@dataclass(frozen=True)
class Wanted:
    """Which parts, and how long.

    Attributes:
        workers: Numbers of worker processes; none leaves scaling out.
        idle: Streams at once; 0 leaves them out.
    """

    latency: bool
    workers: list[int]
    idle: int
    seconds: float
    rounds: int

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Wanted":
        """As the command line has it."""
        return cls(
            latency=arguments.latency,
            workers=arguments.workers,
            idle=arguments.idle,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
        )


def measure(wanted: Wanted, upstreams: Upstreams, home: Path) -> dict[str, Any]:
    """Each part that is wanted, or `{"failed": why}` in its place."""
    found: dict[str, Any] = {}
    if wanted.latency:
        home.mkdir(parents=True, exist_ok=True)
        found["disk"] = latency.syncs(home)
        found["latency"] = _part("latency", lambda: _latency(wanted, upstreams, home / "latency"))
    if wanted.workers:
        found["scaling"] = _part(
            "scaling",
            lambda: scaling.measure(
                wanted.workers,
                upstreams,
                home / "scaling",
                seconds=wanted.seconds,
                rounds=wanted.rounds,
            ),
        )
    if wanted.idle:
        found["idle"] = _part("idle", lambda: idle.measure(wanted.idle, upstreams, home / "idle"))
    return found


def failed(found: dict[str, Any]) -> bool:
    """Whether a part could not be measured."""
    return any("failed" in found[name] for name in PARTS if name in found)


def _part(name: str, work: Callable[[], object]) -> object:
    print(f"measuring {name}", file=sys.stderr, flush=True)
    try:
        return work()
    except (LoadError, StartError, TimeoutError) as error:
        return {"failed": str(error) or type(error).__name__}


def _latency(wanted: Wanted, upstreams: Upstreams, home: Path) -> list[dict[str, Any]]:
    with fungible(upstreams, home) as gateway:
        return latency.measure(gateway, upstreams, seconds=wanted.seconds, rounds=wanted.rounds)


def show(console: Console, found: dict[str, Any]) -> None:
    """A table or a line for each part."""
    if disk := found.get("disk"):
        console.print(
            f"a kilobyte is durable on this disk after {disk['p50_ms']:g} ms (p50), "
            f"{disk['p99_ms']:g} ms (p99), {disk['max_ms']:g} ms (of {disk['fsyncs']})"
        )
    for name in PARTS:
        if name in found and "failed" in found[name]:
            console.print(f"not measured: {name}: {found[name]['failed']}", markup=False)
        elif name in found:
            _SHOWN[name](console, found[name])


def _show_latency(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title="Latency added to the upstream's, ms, at 60 % of capacity")
    for head in ("request", "req/s", "first p50", "first p99", "end p50", "end p99", "late"):
        table.add_column(head, justify="left" if head == "request" else "right")
    for row in rows:
        kind = "stream" if row["stream"] else "whole"
        parts = ("first_p50", "first_p99", "total_p50", "total_p99")
        table.add_row(
            f"{kind}, {row['prompt_bytes'] / 1000:.0f} KB",
            f"{row['rate_per_s']:g}",
            *(f"{row[f'added_{part}_ms']:g}" for part in parts),
            f"{row['late']} of {row['requests']}",
        )
    console.print(table)


def _show_scaling(console: Console, found: dict[str, Any]) -> None:
    table = Table(title=f"Worker processes on {found['cores']} cores")
    for head in ("workers", "req/s", "over the first", "µs/request", "cores used", "RSS MB"):
        table.add_column(head, justify="right")
    keys = ("workers", "requests_per_s", "over_first", "cpu_us_per_request", "cores_used")
    for row in found["workers"]:
        table.add_row(*(f"{row[key]:g}" for key in (*keys, "rss_mb")))
    console.print(table)
    if found["cores_shared"]:
        console.print("the load and the upstream share these cores, so this is no upper bound")


def _show_idle(console: Console, found: dict[str, Any]) -> None:
    console.print(
        f"{found['streams']} idle streams on one worker: {found['kb_per_stream']:g} KB each "
        f"({found['before_mb']:g} to {found['idle_mb']:g} MB), {found['idle_cpu_percent']:g} % of "
        f"a core while idle, {found['ended']} ended well"
    )


_SHOWN: dict[str, Callable[[Console, Any], None]] = {
    "latency": _show_latency,
    "scaling": _show_scaling,
    "idle": _show_idle,
}
