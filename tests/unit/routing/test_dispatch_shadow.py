"""A shadow sees what clients send and can do them no harm."""

import asyncio

import pytest

from fungible.config import BackendSettings, GatewaySettings
from fungible.contract.events import AttemptEvent
from fungible.routing.table import Shadow
from support.dispatching import Make, Setup, request, route
from support.upstream import Script, Upstream

SHADOW = Shadow(backend="b", share=1.0, migration_id="mig_1")


async def rows_of(setup: Setup, count: int) -> list[AttemptEvent]:
    async with asyncio.timeout(10):
        while len(found := setup.rows()) < count:  # noqa: ASYNC110  # a test can poll
            await asyncio.sleep(0.01)
    return found


async def test_a_copy_pairs_with_its_original(dispatching: Make) -> None:
    async with dispatching(a={"text": "same"}, b={"text": "same"}) as setup:
        body = b"".join(await setup.ask(request(), route=route(shadow=SHADOW), route_version=3))
        assert body.count(b"[DONE]") == 1
        found = {row.backend: row for row in await rows_of(setup, 2)}
    assert (found["a"].kind, found["a"].run_id) == ("serve", "")
    assert (found["b"].kind, found["b"].run_id) == ("shadow", "mig_1")
    assert found["a"].request_id == found["b"].request_id
    assert found["a"].output_hash == found["b"].output_hash != ""
    assert found["b"].route_version == 3


async def test_a_slow_shadow_does_not_slow_the_answer(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=30)
    async with dispatching(a={}, b=BackendSettings(url=upstream.url)) as setup:
        await setup.ask(request(), route=route(shadow=SHADOW))
        await upstream.arrived(1)
        assert [row.backend for row in setup.rows()] == ["a"]
        assert not upstream.requests[0].disconnected.is_set()


async def test_a_failing_shadow_leaves_its_row_and_nothing_else(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.next = [Script(status=500), Script(cut_after=1)]
    async with dispatching(a={}, b=BackendSettings(url=upstream.url)) as setup:
        for at in range(2):
            answer = await setup.ask(request(request_id=f"r{at}"), route=route(shadow=SHADOW))
            assert b"".join(answer).endswith(b"[DONE]\n\n")
            await rows_of(setup, 2 * (at + 1))
        shadows = [row for row in setup.rows() if row.kind == "shadow"]
    assert [(row.status, row.attempt_no) for row in shadows] == [("error", 0), ("interrupted", 0)]


TOOLS = {
    "tools": [{"type": "function"}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "functions": [{}],
    "function_call": "auto",
}


@pytest.mark.parametrize("kept", [True, False])
async def test_tools_are_copied_unless_the_migration_says_otherwise(
    dispatching: Make, upstream: Upstream, kept: bool
) -> None:
    backend = BackendSettings(url=upstream.url)
    shadow = Shadow(backend="b", share=1.0, tools=kept)
    async with dispatching(a=backend, b=backend) as setup:
        await setup.ask(request(**TOOLS, top_k=3), route=route(shadow=shadow))
        await rows_of(setup, 2)
    sent = sorted((seen.body for seen in upstream.requests), key=len)
    assert bool(TOOLS.keys() & sent[0].keys()) == kept
    assert TOOLS.items() <= sent[1].items()
    assert sent[0]["top_k"] == 3


async def test_while_requests_wait_for_any_backend_nothing_is_copied(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=30)
    busy = BackendSettings(url=upstream.url, max_concurrency=1)
    async with dispatching(a=busy, b={}) as setup:
        first, second = (asyncio.create_task(setup.ask(request(), route=route())) for _ in range(2))
        await upstream.arrived(1)
        await setup.ask(request(), route=route(reference="b", shadow=SHADOW))
        assert setup.dispatcher.shadows_dropped == 1
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert {row.kind for row in await setup.settled()} == {"serve"}


async def test_the_number_of_copies_at_once_is_bounded(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=30)
    limits = GatewaySettings(max_shadows=2)
    async with dispatching(limits=limits, a={}, b=BackendSettings(url=upstream.url)) as setup:
        for at in range(5):
            await setup.ask(request(request_id=f"r{at}"), route=route(shadow=SHADOW))
            await upstream.arrived(min(at + 1, 2))
        assert setup.dispatcher.shadows_dropped == 3
    assert len(upstream.requests) == 2


async def test_a_shadow_that_is_not_there_harms_nobody(dispatching: Make) -> None:
    async with dispatching(a={}) as setup:
        await setup.ask(request(), route=route(shadow=SHADOW))
        assert [row.status for row in await setup.settled()] == ["ok"]


async def test_evals_and_replays_are_not_copied(dispatching: Make) -> None:
    async with dispatching(a={}, b={}) as setup:
        for kind in ("eval", "bench", "shadow"):
            await setup.ask(request(kind=kind), route=route(shadow=SHADOW))
        assert {row.backend for row in await setup.settled()} == {"a"}


async def test_a_shadow_that_falls_behind_gets_no_more(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=30)
    slow = BackendSettings(url=upstream.url, max_concurrency=2)
    async with dispatching(a={}, b=slow) as setup:
        for at in range(6):
            await setup.ask(request(request_id=f"r{at}"), route=route(shadow=SHADOW))
            await upstream.arrived(min(at + 1, 2))
        assert sum(row.backend == "a" for row in setup.rows()) == 6
    assert len(upstream.requests) == 2
