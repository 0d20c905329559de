"""Hedging: a second backend is asked when the first is silent, and both leave a row."""

import asyncio
from typing import Any

import pytest

from fungible.config import BackendSettings, RouteSettings
from fungible.errors import UpstreamBusyError, UpstreamRejectedError
from fungible.routing.budget import BURST
from fungible.routing.hedge import ENOUGH, HedgeDelay
from support.dispatching import Make, request, route
from support.upstream import Script, Upstream


def hedging(**fields: Any) -> dict[str, RouteSettings]:
    return {"m": RouteSettings(reference="a", **({"hedge_after_ms": 20.0} | fields))}


@pytest.mark.parametrize("stream", [True, False])
async def test_the_first_to_begin_answers_and_the_other_is_cancelled(
    dispatching: Make, upstream: Upstream, stream: bool
) -> None:
    upstream.default = Script(wait_s=30)
    slow = BackendSettings(url=upstream.url)
    async with dispatching(routes=hedging(), a=slow, b={"text": "fast"}) as setup:
        body = b"".join(await setup.ask(request(stream=stream), route=route("b")))
        assert b"fast" in body
        await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)
        found = {row.backend: row for row in await setup.settled()}
    lost, won = found["a"], found["b"]
    assert (lost.role, lost.status, lost.attempt_no) == ("first", "cancelled", 0)
    assert (won.role, won.status, won.attempt_no) == ("hedge", "ok", 1)
    assert lost.request_id == won.request_id
    # What the loser took is unknown, and unknown is not zero: its cost shows as unpriced.
    assert (lost.usage_source, lost.in_uncached, lost.out_visible) == ("none", None, None)


async def test_who_answers_in_time_is_not_hedged(dispatching: Make) -> None:
    async with dispatching(routes=hedging(hedge_after_ms=10_000.0), a={}, b={}) as setup:
        await setup.ask(request(), route=route("b"))
        assert [(row.backend, row.role) for row in await setup.settled()] == [("a", "first")]


async def test_the_first_may_still_win(dispatching: Make) -> None:
    slow, slower = {"ttft_ms": 80, "text": "slow"}, {"ttft_ms": 30_000}
    async with dispatching(routes=hedging(), a=slow, b=slower) as setup:
        assert b"slow" in b"".join(await setup.ask(request(), route=route("b")))
        found = {row.backend: (row.role, row.status) for row in await setup.settled()}
    assert found == {"a": ("first", "ok"), "b": ("hedge", "cancelled")}


async def test_a_hedge_that_fails_leaves_the_first_alone(dispatching: Make) -> None:
    slow = {"ttft_ms": 80, "text": "slow"}
    async with dispatching(routes=hedging(), a=slow, b={"fail_rate": 1.0}) as setup:
        assert b"slow" in b"".join(await setup.ask(request(), route=route("b")))
        found = {row.backend: (row.role, row.status) for row in await setup.settled()}
    assert found == {"a": ("first", "ok"), "b": ("hedge", "error")}


async def test_when_both_fail_the_next_is_tried(dispatching: Make) -> None:
    failing = {"ttft_ms": 60, "fail_rate": 1.0}
    async with dispatching(
        routes=hedging(), a=failing, b={"fail_rate": 1.0}, c={"text": "third"}
    ) as setup:
        body = b"".join(await setup.ask(request(), route=route("b", "c", retries=0)))
        assert b"third" in body
        rows = sorted(await setup.settled(), key=lambda row: row.attempt_no)
    assert [(row.backend, row.role) for row in rows if row.backend != "b"] == [
        ("a", "first"),
        ("c", "fallback"),
    ]


async def test_a_refusal_ends_the_race(dispatching: Make, upstream: Upstream) -> None:
    upstream.default = Script(status=422, wait_s=0.08)
    first = BackendSettings(url=upstream.url)
    async with dispatching(routes=hedging(), a=first, b={"ttft_ms": 30_000}) as setup:
        with pytest.raises(UpstreamRejectedError):
            await setup.ask(request(), route=route("b"))
        found = {row.backend: row.status for row in await setup.settled()}
    assert found == {"a": "error", "b": "cancelled"}


async def test_a_client_that_leaves_cancels_both(dispatching: Make, upstream: Upstream) -> None:
    upstream.default = Script(wait_s=30)
    both = BackendSettings(url=upstream.url)
    async with dispatching(routes=hedging(), a=both, b=both) as setup:
        asking = asyncio.create_task(setup.ask(request(), route=route("b")))
        await upstream.arrived(2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        found = {row.backend: row.status for row in await setup.settled()}
        assert found == {"a": "cancelled", "b": "cancelled"}
        assert all(place.outstanding == 0 for place in setup.dispatcher.places.values())


async def test_evals_and_migrations_are_not_hedged(dispatching: Make) -> None:
    async with dispatching(routes=hedging(), a={"ttft_ms": 60}, b={}) as setup:
        await setup.ask(request(kind="eval"), route=route("b"))
        await setup.ask(request(), route=route("b", migration_id="mig_1"))
        assert {row.backend for row in await setup.settled()} == {"a"}


async def test_hedges_are_paid_for_from_the_retry_budget(dispatching: Make) -> None:
    broke = hedging(retry_budget=0.0, retry_min_per_s=0.0, hedge_after_ms=0.0)
    async with dispatching(routes=broke, a={"ttft_ms": 15}, b={"ttft_ms": 30_000}) as setup:
        for _ in range(int(BURST) + 5):
            await setup.ask(request(), route=route("b"))
        roles = [row.role for row in await setup.settled()]
    assert roles.count("hedge") == BURST


async def test_a_percentile_needs_enough_answers_first(dispatching: Make) -> None:
    delay = HedgeDelay(RouteSettings(reference="a", hedge_percentile=90.0))
    assert delay.on
    for at in range(ENOUGH - 1):
        delay.note(True, float(at))
    assert delay.after_s(True) is None
    delay.note(True, 100.0)
    assert (delay.after_s(True), delay.after_s(False)) == (17.0, None)
    assert not HedgeDelay(RouteSettings(reference="a")).on


async def test_without_anybody_else_there_is_no_hedge(dispatching: Make) -> None:
    async with dispatching(routes=hedging(), a={"ttft_ms": 60, "fail_rate": 1.0}) as setup:
        with pytest.raises(UpstreamBusyError):
            await setup.ask(request(), route=route(retries=0))
        assert [row.role for row in setup.rows()] == ["first"]
