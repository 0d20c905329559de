"""The gateway follows the route table, and lets nobody serve without a verdict."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import pytest

from fungible.config import BackendSettings, GatewaySettings, RouteSettings, binding_of
from fungible.contract.events import AttemptEvent
from fungible.routing.table import Shadow
from support.edge import Asked
from support.gateway import BODY, GatewayInProcess, Make, table
from support.upstream import Script, Upstream

A, B = BackendSettings(kind="null"), BackendSettings(kind="null", options={"text": "from b"})
BACKENDS = {"a": A, "b": B}
ROUTE = {"m": RouteSettings(reference="a", backends=["b"])}
BOUND = {"b": binding_of("b", B)}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # a test can poll
            await asyncio.sleep(0.02)


async def version(gateway: GatewayInProcess) -> int:
    health = await gateway.call(path="/health", get=True).done()
    return int(health.json()["route_version"])


async def follow(gateway: GatewayInProcess, wanted: int) -> None:
    async with asyncio.timeout(10):
        while await version(gateway) != wanted:  # noqa: ASYNC110  # a test can poll
            await asyncio.sleep(0.02)


async def served(gateway: GatewayInProcess, count: int = 12) -> Counter[str]:
    answers = [await gateway.ask() for _ in range(count)]
    return Counter(answer.headers["x-fungible-backend"] for answer in answers)


async def test_a_new_table_moves_traffic(serving: Make) -> None:
    async with serving(backend=BACKENDS, route=ROUTE) as gateway:
        assert set(await served(gateway)) == {"a"}
        gateway.activate(table(1, {"b": 1.0}, bindings=BOUND))
        await follow(gateway, 1)
        answer = await gateway.ask()
        assert answer.headers["x-fungible-backend"] == "b"
        assert answer.headers["x-fungible-route-version"] == "1"
        assert gateway.rows()[-1].route_version == 1
        gateway.activate(table(2, {"a": 1.0}))
        await follow(gateway, 2)
        assert set(await served(gateway)) == {"a"}


async def test_a_bad_table_changes_nothing_and_is_said_once(
    serving: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(backend=BACKENDS, route=ROUTE) as gateway:
        gateway.activate(table(1, {"b": 1.0}, bindings=BOUND))
        await follow(gateway, 1)
        for bad in (b'{"version": 9}', b"\xff"):
            gateway.activate(bad)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                await until(lambda: "kept at version 1" in caplog.text)
                await asyncio.sleep(0.6)  # two more polls
            assert caplog.text.count("kept at version 1") == 1
            assert await version(gateway) == 1
        assert set(await served(gateway, 3)) == {"b"}
        gateway.activate(table(2, {"a": 1.0}))
        await follow(gateway, 2)


async def test_a_table_that_was_there_before_is_used_from_the_start(serving: Make) -> None:
    async with serving(backend=BACKENDS, route=ROUTE) as gateway:
        gateway.activate(table(5, {"b": 1.0}, bindings=BOUND))
    async with serving(backend=BACKENDS, route=ROUTE) as gateway:
        assert (await gateway.ask()).headers["x-fungible-backend"] == "b"


@pytest.mark.parametrize(
    ("bindings", "lives_s"),
    [({}, 60), ({"b": "another"}, 60), (BOUND, -1)],
    ids=["no verdict", "another binding", "expired"],
)
async def test_who_is_not_admitted_gets_nothing(
    serving: Make, bindings: dict[str, str], lives_s: float
) -> None:
    refused = table(
        1, {"a": 0.01, "b": 1.0}, bindings=bindings, lives_s=lives_s, fallback=["b"], retries=0
    )
    failing = BackendSettings(kind="null", options={"fail_rate": 0.5})
    async with serving(backend={"a": failing, "b": B}, route=ROUTE) as gateway:
        gateway.activate(refused)
        await follow(gateway, 1)
        answers = [await gateway.ask() for _ in range(4)]
        assert Counter(answer.status for answer in answers) == {200: 2, 429: 2}
        assert {row.backend for row in gateway.rows()} == {"a"}


async def test_weights_in_the_file_need_a_verdict_too(serving: Make) -> None:
    eager = {"m": RouteSettings(reference="a", weights={"a": 0.0, "b": 1.0})}
    async with serving(backend=BACKENDS, route=eager) as gateway:
        assert set(await served(gateway, 4)) == {"a"}


async def test_a_verdict_that_expires_while_serving_ends_the_traffic(serving: Make) -> None:
    async with serving(backend=BACKENDS, route=ROUTE) as gateway:
        gateway.activate(table(1, {"b": 1.0}, bindings=BOUND, lives_s=1.5))
        await follow(gateway, 1)
        assert set(await served(gateway, 2)) == {"b"}
        await asyncio.sleep(2.0)
        assert set(await served(gateway, 4)) == {"a"}


async def test_backends_that_are_not_configured_here_are_left_out(serving: Make) -> None:
    away = table(1, {"a": 1.0, "z": 5.0}, fallback=["z"], shadow=Shadow(backend="z", share=1.0))
    async with serving(backend=BACKENDS, route=ROUTE) as gateway:
        gateway.activate(away)
        await follow(gateway, 1)
        assert set(await served(gateway, 4)) == {"a"}


async def test_a_client_that_leaves_cancels_the_call(serving: Make, upstream: Upstream) -> None:
    upstream.default = Script(words=("x",) * 1000, word_s=0.02)
    only = {"a": BackendSettings(url=upstream.url)}
    async with serving(backend=only, route={"m": RouteSettings(reference="a")}) as gateway:
        call = gateway.call({**BODY, "stream": True})
        await until(lambda: len(call.chunks) > 1)
        await left(call, upstream, 0)
        await until(lambda: [row.status for row in gateway.rows()] == ["cancelled"])


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_the_answer_cancels_it_too(
    serving: Make, upstream: Upstream, stream: bool
) -> None:
    upstream.default = Script(wait_s=30)
    only = {"a": BackendSettings(url=upstream.url)}
    async with serving(backend=only, route={"m": RouteSettings(reference="a")}) as gateway:
        call = gateway.call({**BODY, "stream": stream})
        await upstream.arrived(1)
        await left(call, upstream, 0)
        await until(lambda: [row.status for row in gateway.rows()] == ["cancelled"])


async def left(call: Asked, upstream: Upstream, at: int) -> None:
    call.leave()
    await asyncio.wait_for(upstream.requests[at].disconnected.wait(), 10)
    await call.done()


async def test_an_answer_that_nobody_stays_to_read_gives_its_slot_back(
    serving: Make, upstream: Upstream
) -> None:
    upstream.default = Script(words=("x",) * 1000, word_s=0.02, wait_s=0.05)
    only = {"a": BackendSettings(url=upstream.url, max_concurrency=1)}
    async with serving(backend=only, route={"m": RouteSettings(reference="a")}) as gateway:
        for at in range(8):
            call = gateway.call({**BODY, "stream": True})
            await upstream.arrived(at + 1)
            # Around the moment of the first token, a little earlier or later each time.
            await asyncio.sleep(0.06 + at * 0.003)
            await left(call, upstream, at)
        await until(lambda: len(gateway.rows()) == 8)
        assert {row.status for row in gateway.rows()} == {"cancelled"}
        upstream.default = Script()
        assert (await gateway.ask()).status == 200


async def drained(
    serving: Make, upstream: Upstream, script: Script, limit_s: float, stream: bool
) -> AttemptEvent:
    """The row of an answer whose client left, where answers are read to their end."""
    upstream.default = script
    only = {"a": BackendSettings(url=upstream.url)}
    settings = GatewaySettings(drain_timeout_s=limit_s)
    route = {"m": RouteSettings(reference="a", on_client_gone="drain")}
    async with serving(backend=only, route=route, gateway=settings) as gateway:
        call = gateway.call({**BODY, "stream": stream})
        await upstream.arrived(1)
        call.leave()
        await call.done()
        await until(lambda: len(gateway.rows()) == 1)
        return gateway.rows()[0]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_is_drained_is_counted(
    serving: Make, upstream: Upstream, stream: bool
) -> None:
    row = await drained(serving, upstream, Script(wait_s=0.05, word_s=0.01), 20, stream)
    assert (row.status, row.usage_source, row.out_visible) == ("cancelled", "provider_final", 3)


async def test_draining_ends_in_time(serving: Make, upstream: Upstream) -> None:
    endless = Script(words=("x",) * 1000, word_s=0.02)
    row = await drained(serving, upstream, endless, 0.3, stream=True)
    assert (row.status, row.usage_source) == ("cancelled", "estimated")
    assert 0 < (row.out_visible or 0) < 1000
    assert row.in_uncached is None
