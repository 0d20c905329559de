"""Limits at the edge: what clients see, and what is counted whichever way a request ends."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from fungible.config import (
    BackendSettings,
    KeySettings,
    LimitSettings,
    LimitsSettings,
    RouteSettings,
    SharedLimitSettings,
)
from fungible.contract.inference import Attribution
from fungible.limits.rules import Rules, counted
from support.gateway import GatewayInProcess, Make
from support.upstream import Script, Upstream

ROUTES = {"m": RouteSettings(reference="a", retries=0)}
NULL = {"a": BackendSettings(kind="null")}
SHEET = """key,unit,leaf,price,currency
a,1M_tokens,input,1000,USD
a,1M_tokens,output,1000,USD
"""


def keys(**limits: Any) -> dict[str, KeySettings]:
    digest = hashlib.sha256(b"fk-team").hexdigest()
    settings = LimitSettings(**limits) if limits else None
    return {"team": KeySettings(hash=digest, customer="acme", limits=settings)}


async def levels(gateway: GatewayInProcess) -> dict[str, int]:
    """Whole requests and tokens, and money in 10^-9, once every settlement is done."""
    limiter = gateway.app._inference.limiter
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not limiter._settling:
            break
    rules = Rules(gateway.config).of(Attribution(key="team", customer="acme"))
    now = limiter._clock() // 1000
    items = [item for limit in rules for item in counted(limit, now)]
    store = limiter._store
    assert store is not None
    found = await store.levels([item.bucket for item in items], now)
    scale = [1 if item.money else 60_000_000 for item in items]
    return {item.meter: -(-n // s) for item, n, s in zip(items, found, scale, strict=True)}


async def test_a_rate_is_told_and_kept(serving: Make) -> None:
    async with serving(
        backend=NULL, route=ROUTES, key=keys(requests_per_minute=2, tokens_per_minute=9000)
    ) as gateway:
        first = await gateway.ask("fk-team")
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-limit-tokens"] == "9000"
        stream = await gateway.ask("fk-team", stream=True)
        assert stream.headers["x-ratelimit-remaining-requests"] == "0"
        refused = await gateway.ask("fk-team")
        assert refused.status == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert len(gateway.rows()) == 2
        assert (await levels(gateway))["tokens"] <= 40


async def test_a_budget_is_kept_and_has_its_own_error(serving: Make, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text(SHEET, encoding="utf-8")
    limit = {"acme": SharedLimitSettings(customer="acme", budget_per_day="0.2")}
    async with serving(backend=NULL, route=ROUTES, key=keys(), limit=limit) as gateway:
        done = await gateway.ask("fk-team", max_tokens=50)
        assert done.status == 200
        (row,) = gateway.rows()
        assert row.in_uncached is not None
        assert row.out_visible is not None
        used = (row.in_uncached + row.out_visible) * 1_000_000
        assert await levels(gateway) == {"day": used}
        refused = await gateway.ask("fk-team", max_tokens=500)
        assert refused.status == 429
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exceeded")
        assert "0.2 USD" in error["message"]
        assert refused.headers["x-should-retry"] == "false"


async def test_a_refused_request_is_free_and_one_without_price_is_refused(
    serving: Make, tmp_path: Path
) -> None:
    failing = {"a": BackendSettings(kind="null", options={"fail_rate": 1.0, "fail_status": 503})}
    async with serving(
        backend=failing, route=ROUTES, key=keys(budget_total="1", requests_per_minute=9)
    ) as gateway:
        assert (await gateway.ask("fk-team")).json()["error"]["code"] == "unpriced"
        assert gateway.rows() == []
    (tmp_path / "prices.csv").write_text(SHEET, encoding="utf-8")
    async with serving(
        backend=failing, route=ROUTES, key=keys(budget_total="9", requests_per_minute=9)
    ) as gateway:
        assert (await gateway.ask("fk-team")).status == 429
        assert await levels(gateway) == {"requests": 1, "total": 0}


@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_leaves_pays(
    serving: Make, tmp_path: Path, upstream: Upstream, begun: bool
) -> None:
    (tmp_path / "prices.csv").write_text(SHEET, encoding="utf-8")
    upstream.default = Script(words=("a",) * 5000, word_s=0.01, wait_s=0 if begun else 60)
    async with serving(
        backend={"a": BackendSettings(url=upstream.url)},
        route=ROUTES,
        key=keys(budget_total="99"),
    ) as gateway:
        call = gateway.call({"model": "m", "messages": [], "stream": True} | BODY, key="fk-team")
        await upstream.arrived(1)
        if begun:
            while not call.chunks:  # noqa: ASYNC110  # a test can poll
                await asyncio.sleep(0.01)
        assert (await levels(gateway))["total"] > 0
        call.leave()
        await call.done()
        await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)
        assert (await levels(gateway))["total"] > 0
        assert not gateway.app._inference.limiter._settling


BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 6000}


async def test_without_limits_the_store_is_never_touched(serving: Make) -> None:
    other = {"x": SharedLimitSettings(customer="other", requests_per_minute=1)}
    nowhere = LimitsSettings(store="redis://127.0.0.1:1/0", store_timeout_s=0.2)
    async with serving(
        backend=NULL, route=ROUTES, key=keys(), limit=other, limits=nowhere
    ) as gateway:
        answer = await gateway.ask("fk-team")
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(("mode", "status"), [("open", 200), ("closed", 503)])
async def test_a_store_that_is_down(serving: Make, mode: str, status: int) -> None:
    nowhere = LimitsSettings(store="redis://127.0.0.1:1/0", store_timeout_s=0.2)
    async with serving(
        backend=NULL,
        route=ROUTES,
        key=keys(requests_per_minute=1, on_store_failure=mode),
        limits=nowhere,
    ) as gateway:
        for _ in range(3):
            answer = await gateway.ask("fk-team")
            assert answer.status == status
        if status == 503:
            assert answer.json()["error"]["code"] == "limits_unavailable"
