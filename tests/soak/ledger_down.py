"""The ledger is away under load: the spool holds, then catches up, exactly once.

    uv run python tests/soak/ledger_down.py [--seconds 600] [--rate 50] [--json]

A gateway is asked at a steady rate. Its control process is killed, stays away for that long, and
comes back while the load goes on. At the end every answer must be in the ledger once.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp

from fungible.config import (
    BackendSettings,
    Config,
    ControlSettings,
    GatewaySettings,
    RouteSettings,
)
from fungible.ledger.room import held_bytes
from fungible.ledger.ship import QUARANTINE
from fungible.ledger.store import EVERYTHING, open_store
from support.control_setup import write_config
from support.processes import Server

# What a gateway writes between two shipments; less than this is no backlog.
SETTLED_BYTES = 1 << 18
LONGEST_CATCH_UP_S = 600
_BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def config_in(home: Path) -> Config:
    """A backend that answers at once."""
    return Config(
        home=str(home),
        gateway=GatewaySettings(port=0),
        control=ControlSettings(port=0),
        backend={"a": BackendSettings(kind="null", options={"tokens": 3})},
        route={"m": RouteSettings(reference="a")},
    )


class Load:
    """Requests at a steady rate.

    Attributes:
        answered: Request ids that were answered with 200.
        failed: How many were not.
    """

    def __init__(self, url: str, rate: float) -> None:
        self.url = url
        self.rate = rate
        self.answered: list[str] = []
        self.failed = 0

    async def run(self) -> None:
        """Until cancelled; requests under way then are awaited."""
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            next_at = time.monotonic()
            with contextlib.suppress(asyncio.CancelledError):
                while True:
                    group.create_task(self._ask(session))
                    next_at += 1 / self.rate
                    await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        url = f"{self.url}/v1/chat/completions"
        async with session.post(url, json=_BODY) as response:
            await response.read()
            if response.status == 200:
                self.answered.append(response.headers["x-fungible-request-id"])
            else:
                self.failed += 1


async def outage(config: Config, path: Path, seconds: float, rate: float) -> dict[str, Any]:
    """Load, with control taken away in the middle; what was seen from outside."""
    spool = config.spool_path()
    gateway = Server("gateway", "serve", "--config", str(path))
    control = Server("control", "serve", "--config", str(path))
    await asyncio.to_thread(control.start)
    await asyncio.to_thread(gateway.start)
    load = Load(gateway.url, rate)
    loading = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(2.0)
        await asyncio.to_thread(control.kill)
        await asyncio.sleep(seconds)
        waiting = {"spool_bytes": held_bytes(spool), "segments": len(list(spool.glob("*/*.seg")))}
        began = time.monotonic()
        await asyncio.to_thread(control.start)
        async with asyncio.timeout(LONGEST_CATCH_UP_S):
            while held_bytes(spool) > SETTLED_BYTES or len(list(spool.glob("*/*.seg"))) > 4:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        caught_up_s = time.monotonic() - began
    finally:
        loading.cancel()
        await loading
        await asyncio.to_thread(gateway.stop)
        await asyncio.to_thread(control.stop)
    return waiting | {
        "caught_up_s": round(caught_up_s, 1),
        "answered": load.answered,
        "failed": load.failed,
    }


def run(home: Path, seconds: float, rate: float) -> dict[str, Any]:
    """The outage, then the ledger held against what clients saw."""
    config = config_in(home)
    seen = asyncio.run(outage(config, write_config(config), seconds, rate))
    answered = seen.pop("answered")
    store = open_store(config.ledger_dsn())
    try:
        found = store.query("SELECT request_id FROM attempt_events", max_rows=EVERYTHING)
    finally:
        store.close()
    recorded = Counter(str(row[0]) for row in found.rows)
    return seen | {
        "seconds": seconds,
        "rate": rate,
        "answered": len(answered),
        "missing": sum(1 for one in answered if not recorded[one]),
        "doubled": sum(1 for count in recorded.values() if count > 1),
        "bytes_left": held_bytes(config.spool_path()),
        "quarantined": len(list((config.spool_path() / QUARANTINE).glob("*"))),
    }


def passed(result: dict[str, Any]) -> bool:
    """Whether nothing failed, was lost, doubled or left, and something had to wait."""
    wrong = ("failed", "missing", "doubled", "bytes_left", "quarantined")
    return result["spool_bytes"] > 0 and not any(result[name] for name in wrong)


def main() -> int:
    """Exit status: 0 if the ledger is exact, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long control is away")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--json", action="store_true", help="the result as data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ledger-down-") as home:
        result = run(Path(home), arguments.seconds, arguments.rate)
    result["load_1min"] = round(os.getloadavg()[0], 2)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        sys.stdout.write(", ".join(f"{name} {value}" for name, value in result.items()) + "\n")
    return 0 if passed(result) else 1


if __name__ == "__main__":
    sys.exit(main())
