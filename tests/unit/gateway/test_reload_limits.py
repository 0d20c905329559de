"""Limits, their store and prices change under a running gateway; no count is lost."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fungible.config import load_config
from fungible.gateway.reload import ConfigWatcher
from support.gateway import BODY, GatewayInProcess

KEY = "fk-team"
SHEET = "key,unit,leaf,price,currency\na,1M_tokens,input,{0},USD\na,1M_tokens,output,{0},USD\n"


def text(*, limit: str = "", limits: str = 'store = "memory://"', of_key: str = "") -> str:
    return f"""
[ledger]
prices = "prices.csv"
[backend.a]
kind = "null"
options = {{ tokens = 20, itl_ms = 5 }}
[route.m]
reference = "a"
[key.team]
hash = "{hashlib.sha256(KEY.encode()).hexdigest()}"
customer = "acme"
{of_key}
[limits]
{limits}
{limit}
"""


ACME = '[limit.acme]\ncustomer = "acme"\n'


@contextlib.asynccontextmanager
async def following(
    path: Path, first: str
) -> AsyncIterator[tuple[GatewayInProcess, ConfigWatcher]]:
    path.with_name("prices.csv").write_text(SHEET.format(1))
    path.write_text(first)  # noqa: ASYNC240  # a few bytes
    gateway = GatewayInProcess(load_config(path), path)
    watcher = gateway.app.configuration
    assert watcher is not None
    async with gateway.app.running():
        yield gateway, watcher


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fungible.toml"


async def take(path: Path, watcher: ConfigWatcher, new: str) -> None:
    path.write_text(new)  # noqa: ASYNC240  # a few bytes
    await watcher.refresh()
    assert watcher.problem == ""


async def statuses(gateway: GatewayInProcess, count: int) -> list[int]:
    return [(await gateway.ask(KEY, max_tokens=5)).status for _ in range(count)]


async def test_limits_come_change_and_go(path: Path) -> None:
    async with following(path, text()) as (gateway, watcher):
        assert await statuses(gateway, 3) == [200] * 3
        await take(path, watcher, text(limit=ACME + "requests_per_minute = 2"))
        assert await statuses(gateway, 3) == [200, 200, 429]
        await take(path, watcher, text(limit=ACME + "requests_per_minute = 4"))
        assert await statuses(gateway, 5) == [200, 200, 200, 200, 429]
        await take(path, watcher, text())
        assert await statuses(gateway, 6) == [200] * 6
        await take(path, watcher, text(of_key="limits = { requests_per_minute = 1 }"))
        assert await statuses(gateway, 2) == [200, 429]


@pytest.mark.parametrize("store", ['store = "memory://"', ""], ids=["memory", "sqlite"])
async def test_what_was_spent_stays_spent(path: Path, store: str) -> None:
    budget = ACME + 'budget_per_day = "{}"'
    async with following(path, text(limit=budget.format("1"), limits=store)) as (gateway, watcher):
        assert await statuses(gateway, 2) == [200, 200]
        (first, second) = gateway.rows()
        used = sum((row.in_uncached or 0) + (row.out_visible or 0) for row in (first, second))
        await take(path, watcher, text(limit=budget.format(f"0.{used:06d}"), limits=store))
        assert await statuses(gateway, 1) == [429]


async def test_a_request_settles_where_it_was_admitted(path: Path) -> None:
    daily = ACME + 'budget_per_day = "1"'
    async with following(path, text(limit=daily)) as (gateway, watcher):
        old = gateway.app._inference.limiter
        call = gateway.call({**BODY, "stream": True}, key=KEY)
        while not call.chunks:  # noqa: ASYNC110  # a test can poll
            await asyncio.sleep(0.005)
        await take(path, watcher, text(limit=daily, limits=""))  # a SQLite file instead
        fresh = gateway.app._inference.limiter
        assert fresh is not old
        assert old.opened is not None
        assert fresh.opened is not old.opened
        assert (await call.done()).body.endswith(b"[DONE]\n\n")
        for _ in range(200):
            if old.opened is None:
                break
            await asyncio.sleep(0.01)
        assert old.opened is None, "it was not closed"
        assert old.unsettled == 0
        assert await statuses(gateway, 1) == [200]


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ('store = "sqlite:///dev/null/x.db"', "limits"),
        ('store = "redis://127.0.0.1:9/0"', "limits"),
        ('store = "gopher://x"', "limits.store"),
    ],
)
async def test_a_store_that_cannot_be_opened_changes_nothing(
    path: Path, store: str, says: str
) -> None:
    one = ACME + "requests_per_minute = 1"
    async with following(path, text(limit=one)) as (gateway, watcher):
        before = gateway.app._inference.limiter
        path.write_text(text(limit=ACME + "requests_per_minute = 50", limits=store))  # noqa: ASYNC240
        await watcher.refresh()
        assert says in watcher.problem
        assert gateway.app._inference.limiter is before
        assert await statuses(gateway, 2) == [200, 429]


async def test_a_new_price_sheet_is_taken_over(path: Path) -> None:
    async with following(path, text()) as (gateway, watcher):
        (first,) = [(await gateway.ask(KEY)).headers["x-fungible-cost"]]
        path.with_name("prices.csv").write_text(SHEET.format(1000))
        await watcher.refresh()
        assert watcher.problem == ""
        dear = (await gateway.ask(KEY)).headers["x-fungible-cost"]
        assert float(dear.split()[0]) == pytest.approx(1000 * float(first.split()[0]))
        path.with_name("prices.csv").write_text("nonsense")
        await watcher.refresh()
        assert "prices.csv" in watcher.problem
        assert (await gateway.ask(KEY)).headers["x-fungible-cost"] == dear
