"""Memory of a gateway under a steady load whose clients leave at random: it must not grow.

    uv run python tests/soak/memory.py [--minutes 20] [--json]

Half of the clients ask for streams; one in three leaves at a random point of its answer. Sealed
segments of the spool are taken away as a shipper would. The resident memory after a warm-up is
fitted with a robust line; what the line gains over the run is held to a bound.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import aiohttp
import psutil
from rich.console import Console
from rich.progress import Progress

from fungible.config import BackendSettings, Config, GatewaySettings, KeySettings, RouteSettings
from fungible.contract.sse import DONE
from fungible.ledger.segments import SEALED
from gateway import idle
from gateway.processes import running
from support.control_setup import write_config
from support.processes import Server

CLIENTS, LEAVE, REST_S = 16, 1 / 3, 0.05
WARM_UP = 0.35
# What may be gained: this share of the median, or so many MB where that is more.
SHARE, FLOOR_MB = 0.03, 4.0
SAMPLES = 600
_KEY = "sk-soak-0123456789abcdef0123456789abcdef"


@dataclass
class Seen:
    """What the load did and what was sampled: seconds, MB."""

    answered: int = 0
    left: int = 0
    wrong: list[str] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)


def slope(at: list[float], values: list[float]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs, so a few jumps do not count."""
    points = list(zip(at, values, strict=True))
    rises = [
        (later - value) / (then - when)
        for number, (when, value) in enumerate(points)
        for then, later in points[number + 1 :]
        if then > when
    ]
    return statistics.median(rises)


def verdict(seen: Seen, files: tuple[int, int]) -> dict[str, Any]:
    """The growth over the samples after the warm-up, and sockets that were left open."""
    kept = [number for number, at in enumerate(seen.at) if at >= seen.at[-1] * WARM_UP]
    at, mb = [seen.at[number] for number in kept], [seen.mb[number] for number in kept]
    rise = slope(at, mb)
    median = statistics.median(mb)
    return {
        "answered": seen.answered,
        "left": seen.left,
        "wrong": len(seen.wrong),
        "first_wrong": seen.wrong[0] if seen.wrong else "",
        "samples": len(mb),
        "median_mb": round(median, 2),
        "range_mb": [round(min(mb), 2), round(max(mb), 2)],
        "mb_per_hour": round(rise * 3600, 2),
        "grown_mb": round(rise * (at[-1] - at[0]), 2),
        "allowed_mb": round(max(SHARE * median, FLOOR_MB), 2),
        "files": list(files),
    }


def passed(result: dict[str, Any]) -> bool:
    """Whether memory stayed, no file was left open, and clients were answered and did leave."""
    before, after = result["files"]
    return bool(
        result["answered"]
        and result["left"]
        and not result["wrong"]
        and result["grown_mb"] <= result["allowed_mb"]
        and after <= before + CLIENTS
    )


def config_in(home: Path, port: int) -> Config:
    """One backend over HTTP, behind a key."""
    hashed = hashlib.sha256(_KEY.encode()).hexdigest()
    return Config(
        home=str(home),
        gateway=GatewaySettings(port=0),
        backend={"a": BackendSettings(url=f"http://127.0.0.1:{port}/v1")},
        route={"m": RouteSettings(reference="a")},
        key={"soak": KeySettings(hash=hashed, owner="soak", customer="acme", feature="soak")},
    )


async def client(url: str, seen: Seen, rng: random.Random, until: float) -> None:
    """One that asks, now and then leaves, rests, and asks again."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi " * 300}]}
    headers = {"Authorization": f"Bearer {_KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while time.monotonic() < until:
            asked = {**body, "stream": rng.random() < 0.5}
            patience_s = rng.uniform(0.0, 0.16) if rng.random() < LEAVE else 30.0
            try:
                async with asyncio.timeout(patience_s):
                    await _one(session, url, asked, seen)
            except TimeoutError:
                seen.left += 1
            except (aiohttp.ClientError, ConnectionError) as error:
                seen.wrong.append(repr(error))
            await asyncio.sleep(rng.uniform(0.0, REST_S))


async def _one(session: aiohttp.ClientSession, url: str, body: dict[str, Any], seen: Seen) -> None:
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        data = await response.read()
        whole = data.endswith(DONE) if body["stream"] else b"choices" in data
        if response.status != 200 or not whole:
            seen.wrong.append(f"{response.status} {data[-200:]!r}")
        seen.answered += 1


async def sampled(
    process: psutil.Process, seen: Seen, seconds: float, progress: Progress | None = None
) -> None:
    """The resident memory of a process, `SAMPLES` times at most once in 0.1 s."""
    began = time.monotonic()
    task = progress.add_task("memory", total=seconds) if progress else None
    while (at := time.monotonic() - began) < seconds:
        seen.at.append(at)
        seen.mb.append(process.memory_info().rss / 1e6)
        if progress and task is not None:
            progress.update(task, completed=at, description=f"{seen.mb[-1]:.1f} MB")
        await asyncio.sleep(max(seconds / SAMPLES, 0.1))


def _take_away(spool: Path) -> None:
    for path in spool.glob(f"*/*{SEALED}"):
        path.unlink()


async def _taken_away(spool: Path) -> None:
    while True:
        await asyncio.to_thread(_take_away, spool)
        await asyncio.sleep(1.0)


async def _load(
    server: Server, spool: Path, seconds: float, seed: int, progress: Progress | None
) -> dict[str, Any]:
    seen, process = Seen(), psutil.Process(server.process.pid)
    before = process.num_fds()
    until = time.monotonic() + seconds
    taking = asyncio.create_task(_taken_away(spool))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sampled(process, seen, seconds, progress))
            for number in range(CLIENTS):
                rng = random.Random(seed * 1000 + number)
                group.create_task(client(server.url, seen, rng, until))
        await asyncio.sleep(1.0)  # sockets of clients that just left
    finally:
        taking.cancel()
    return verdict(seen, (before, process.num_fds()))


def run(home: Path, seconds: float, seed: int, progress: Progress | None = None) -> dict[str, Any]:
    """An upstream, a gateway and the load, each in a process of its own."""
    command = [sys.executable, idle.SCRIPT, "--interval-ms", "2"]
    with running(command, home / "upstream.log") as upstream:
        config = config_in(home, upstream.said["port"])
        with Server("gateway", "serve", "--config", str(write_config(config))) as server:
            found = asyncio.run(_load(server, config.spool_path(), seconds, seed, progress))
    return found | {"seconds": seconds, "seed": seed}


def main() -> int:
    """Exit status: 0 if memory stayed flat, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1, help="of who leaves when")
    parser.add_argument("--json", action="store_true", help="the result as data")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-memory-")))
        progress = stack.enter_context(Progress(console=console)) if console.is_terminal else None
        result = run(home, arguments.minutes * 60, arguments.seed, progress)
    result |= {"load_1min": round(os.getloadavg()[0], 2), "passed": passed(result)}
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        words = (f"{name} {value}" for name, value in result.items())
        sys.stdout.write(", ".join(words) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
