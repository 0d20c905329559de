"""How long an attempt takes from its end to a query's answer, while the page is watched.

Attempts are written by a process of their own, as a gateway does; control ships and prices them
in this one; one thread asks for new rows all the time and another one reads the page.
"""

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fungible.config import load_config
from fungible.contract.events import AttemptEvent
from fungible.control.app import Control
from fungible.dashboard.live import read_snapshot
from fungible.ledger.spool import SpoolWriter
from fungible.ledger.store import Store, open_store

AT_ONCE = 5
BACKENDS = ("first", "second")
CONFIG = """\
[backend.first]
kind = "null"
[backend.second]
kind = "null"
[route.m]
reference = "first"
weights = {first = 1, second = 1}
[ledger]
prices = "prices.csv"
"""
PRICES = """\
key,unit,leaf,price,currency
first,1M_tokens,input,0.15,USD
first,1M_tokens,output,0.60,USD
second,1M_tokens,input,0.15,USD
second,1M_tokens,output,0.60,USD
"""
_NEW = (
    "SELECT attempt_no, ended_ns FROM attempt_events WHERE attempt_no > {seen:Int64}"
    " ORDER BY attempt_no"
)


def measure(folder: Path, *, seconds: int, rate: int) -> dict[str, Any]:
    """Milliseconds from an attempt's end until a query returned it, and what control used."""
    (folder / "fungible.toml").write_text(CONFIG, encoding="utf-8")
    (folder / "prices.csv").write_text(PRICES, encoding="utf-8")
    return asyncio.run(_measure(folder, seconds, rate))


async def _measure(folder: Path, seconds: int, rate: int) -> dict[str, Any]:
    config = load_config(folder / "fungible.toml")
    store = open_store(f"chdb://{folder}/ledger")
    store.migrate()
    control = Control(config, store, token="benchmark")
    done = threading.Event()
    lags: list[float] = []
    pages: list[float] = []
    threads = [
        threading.Thread(target=_ask, args=(store, lags, done)),
        threading.Thread(target=_watch, args=(lambda: read_snapshot(store, config), pages, done)),
    ]
    try:
        async with control.running(None):  # type: ignore[arg-type]  # it needs no application
            command = [sys.executable, __file__, str(config.spool_path()), str(seconds), str(rate)]
            writer = await asyncio.create_subprocess_exec(*command)
            for thread in threads:
                thread.start()
            cpu, wall = time.process_time(), time.monotonic()
            await writer.wait()
            used = (time.process_time() - cpu) / (time.monotonic() - wall)
            await asyncio.sleep(2.0)
            done.set()
            for thread in threads:
                thread.join()
    finally:
        store.close()
    return {
        "rate_per_s": rate,
        "attempts": seconds * rate,
        "seen": len(lags),
        "ms": _spread(lags),
        "page_ms": _spread(pages),
        "cores": round(used, 2),
    }


def _ask(store: Store, lags: list[float], done: threading.Event) -> None:
    seen = -1
    while not done.is_set():
        rows = store.query(_NEW, {"seen": seen}, max_rows=1_000_000).rows
        now = time.time_ns()
        for number, ended in rows:
            lags.append((now - ended) / 1e6)
            seen = max(seen, number)
        time.sleep(0.05)


def _watch(read: Callable[[], object], took: list[float], done: threading.Event) -> None:
    """Once a second, as the page's feed does."""
    while not done.is_set():
        began = time.monotonic()
        read()
        took.append((time.monotonic() - began) * 1e3)
        done.wait(max(0.05, 1.0 - (time.monotonic() - began)))


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)

    return {"p50": at(0.5), "p95": at(0.95), "max": round(ordered[-1], 1)} if ordered else {}


def write(spool: Path, seconds: int, rate: int) -> None:
    """Write `rate` attempts a second, some at once, each as it ends."""
    writer = SpoolWriter(spool, "gateway-0")
    began = time.monotonic()
    for number in range(0, seconds * rate, AT_ONCE):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        now = time.time_ns()
        writer.write(*(_attempt(number + at, now) for at in range(AT_ONCE)))
    writer.close()


def _attempt(number: int, now: int) -> AttemptEvent:
    return AttemptEvent(
        attempt_id=f"att_{number}",
        request_id=f"req_{number}",
        attempt_no=number,  # what the query asks by
        kind="serve",
        endpoint="chat/completions",
        model="m",
        backend=BACKENDS[number % 2],
        backend_kind="null",
        customer=f"customer-{number % 300}",
        feature=f"feature-{number % 20}",
        streamed=True,
        started_ns=now - 1_000_000_000,
        first_token_ns=now - 500_000_000,
        ended_ns=now,
        status="ok",
        in_uncached=100,
        in_cache_read=0,
        in_cache_write=0,
        out_visible=50,
        out_reasoning=0,
        usage_source="provider_final",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("spool", type=Path)
    parser.add_argument("seconds", type=int)
    parser.add_argument("rate", type=int)
    given = parser.parse_args()
    write(given.spool, given.seconds, given.rate)
