"""A request's witness sees each attempt begin and end, whichever way, and no shadow."""

import asyncio

import pytest

from fungible.config import BackendSettings
from fungible.contract.events import AttemptEvent
from fungible.errors import FungibleError
from fungible.routing.table import Shadow
from support.dispatching import Make, request, route
from support.servers import free_port
from support.upstream import Script, Upstream


class Seen:
    def __init__(self) -> None:
        self.under_way = 0
        self.rows: list[AttemptEvent] = []

    def began(self) -> None:
        self.under_way += 1

    def ended(self, row: AttemptEvent) -> None:
        self.under_way -= 1
        self.rows.append(row)


async def test_each_attempt_of_a_request_and_no_shadow(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(status=500)
    seen, shadow = Seen(), Shadow(backend="c", share=1.0, migration_id="m")
    async with dispatching(a=BackendSettings(url=upstream.url), b={}, c={}) as setup:
        await setup.ask(request(witness=seen), route=route("b", shadow=shadow))
        rows = await setup.settled()
    assert seen.under_way == 0
    assert [(row.backend, row.status) for row in seen.rows] == [
        ("a", "error"),
        ("a", "error"),
        ("b", "ok"),
    ]
    assert {row.attempt_id for row in seen.rows} == {
        row.attempt_id for row in rows if row.kind == "serve"
    }


async def test_one_that_is_cut_off_before_its_first_token(
    dispatching: Make, upstream: Upstream
) -> None:
    upstream.default = Script(wait_s=30)
    seen = Seen()
    async with dispatching(a=BackendSettings(url=upstream.url)) as setup:
        asking = asyncio.create_task(setup.ask(request(witness=seen), route=route()))
        await upstream.arrived(1)
        assert seen.under_way == 1
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await setup.settled()
    assert (seen.under_way, [row.status for row in seen.rows]) == (0, ["cancelled"])


@pytest.mark.parametrize(("script", "code"), [(Script(cut_after=0), ""), (None, "refused")])
async def test_what_was_sent_is_told_apart_from_what_was_not(
    dispatching: Make, upstream: Upstream, script: Script | None, code: str
) -> None:
    seen = Seen()
    url = upstream.url if script else f"http://127.0.0.1:{free_port()}/v1"
    upstream.default = script or Script()
    async with dispatching(a=BackendSettings(url=url)) as setup:
        with pytest.raises(FungibleError):
            await setup.ask(request(witness=seen), route=route(retries=0))
    (row,) = seen.rows
    assert (row.error_code == "upstream_unreachable") == bool(code)
