"""kill -9 under load: no answered request is missing from the ledger, and none is there twice.

    uv run python tests/soak/kill9.py [--cycles 200] [--json]

Every cycle starts a gateway on the same spool, lets clients ask it (half of them for streams), and
kills it at a random moment. At the end the spool is shipped into an embedded ledger, twice.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
from rich.console import Console
from rich.progress import Progress

from fungible.config import BackendSettings, Config, GatewaySettings, RouteSettings
from fungible.contract.sse import DONE
from fungible.ledger.segments import OPEN, SEALED
from fungible.ledger.ship import QUARANTINE, ship
from fungible.ledger.store import EVERYTHING, open_store
from support.control_setup import write_config
from support.processes import Server

CLIENTS, LONGEST_S = 12, 0.8
_BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def config_in(home: Path) -> Config:
    """A backend that answers six words, some of them slowly."""
    scripted = {"ttft_ms": 4, "itl_ms": 2, "tokens": 6}
    return Config(
        home=str(home),
        gateway=GatewaySettings(port=0),
        backend={"a": BackendSettings(kind="null", options=scripted)},
        route={"m": RouteSettings(reference="a")},
    )


async def one_cycle(config: Path, live_s: float) -> tuple[list[str], int]:
    """Request ids that were seen answered to the end, and how many were cut."""
    server = Server("gateway", "serve", "--config", str(config))
    await asyncio.to_thread(server.start)
    answered: list[str] = []
    cut = 0

    async def client(session: aiohttp.ClientSession, at: int) -> None:
        nonlocal cut
        stream = at % 2 == 0
        while True:
            try:
                url = f"{server.url}/v1/chat/completions"
                async with session.post(url, json={**_BODY, "stream": stream}) as response:
                    data = await response.read()
            except (aiohttp.ClientError, ConnectionError):
                cut += 1
                return
            whole = data.endswith(DONE) if stream else b"choices" in data
            assert response.status == 200, data
            assert whole, data
            answered.append(response.headers["x-fungible-request-id"])

    async def killer() -> None:
        await asyncio.sleep(live_s)
        server.process.kill()

    try:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(killer(), *(client(session, at) for at in range(CLIENTS)))
    finally:
        await asyncio.to_thread(server.kill)
    return answered, cut


def shipped(config: Config) -> Counter[str]:
    """How often the ledger has each answered request, after the spool was shipped twice."""
    store = open_store(f"chdb://{config.home_path()}/ledger")
    try:
        store.migrate()
        while ship(config.spool_path(), store):
            pass
        found = store.query(
            "SELECT request_id, count() FROM attempt_events WHERE status = 'ok'"
            " GROUP BY request_id",
            max_rows=EVERYTHING,
        )
        return Counter({str(row[0]): int(row[1]) for row in found.rows})
    finally:
        store.close()


def verdict(config: Config, answered: list[str], cycles: int, cut: int) -> dict[str, Any]:
    """What the clients saw, held against what the ledger has."""
    recorded = shipped(config)
    spool = config.spool_path()
    left = [path for path in spool.glob("*/*") if path.suffix in (OPEN, SEALED)]
    bad = list((spool / QUARANTINE).glob("*"))
    return {
        "cycles": cycles,
        "answered": len(answered),
        "cut": cut,
        "recorded": len(recorded),
        "missing": sum(1 for one in set(answered) if not recorded[one]),
        "doubled": sum(1 for count in recorded.values() if count > 1),
        "segments_left": len(left),
        "quarantined": len(bad),
    }


def run(home: Path, cycles: int, seed: int, progress: Progress | None = None) -> dict[str, Any]:
    """All cycles, then the comparison."""
    config, rng = config_in(home), random.Random(seed)
    path = write_config(config)
    answered: list[str] = []
    cut, began = 0, time.monotonic()
    task = progress.add_task("kill -9", total=cycles) if progress else None
    for _ in range(cycles):
        more, lost = asyncio.run(one_cycle(path, rng.uniform(0.0, LONGEST_S)))
        answered += more
        cut += lost
        if progress and task is not None:
            progress.advance(task)
    found = verdict(config, answered, cycles, cut)
    return found | {"seconds": round(time.monotonic() - began, 1), "seed": seed}


def passed(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or damaged, and there was something to lose."""
    wrong = ("missing", "doubled", "segments_left", "quarantined")
    return result["answered"] > 0 and not any(result[name] for name in wrong)


def main() -> int:
    """Exit status: 0 if the ledger is exact, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of death")
    parser.add_argument("--json", action="store_true", help="the result as data")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill9-")))
        progress = stack.enter_context(Progress(console=console))
        result = run(home, arguments.cycles, arguments.seed, progress)
    result["load_1min"] = round(os.getloadavg()[0], 2)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        words = (f"{name} {value}" for name, value in result.items())
        sys.stdout.write(", ".join(words) + "\n")
    return 0 if passed(result) else 1


if __name__ == "__main__":
    sys.exit(main())
