"""A backend that cannot say what was asked is passed over; nothing is sent to it."""

from typing import Any

import pytest

from fungible.config import BackendSettings, RouteSettings
from fungible.errors import UnsupportedError, UpstreamBusyError
from support.dispatching import Make, request, route
from support.upstream import Upstream

EMBED: dict[str, Any] = {"stream": False, "endpoint": "embeddings", "input": "one two"}


def only_chat(upstream: Upstream) -> BackendSettings:
    return BackendSettings(url=upstream.url, options={"endpoints": ["chat/completions"]})


async def test_the_next_backend_answers_what_the_first_cannot_say(
    dispatching: Make, upstream: Upstream
) -> None:
    async with dispatching(a=only_chat(upstream), b={}) as setup:
        (body,) = await setup.ask(request(**EMBED), route=route("b", retries=2))
        assert b'"embedding"' in body
        told = [(row.backend, row.role, row.status, row.error_code) for row in setup.rows()]
    assert told == [("a", "first", "error", "unsupported"), ("b", "fallback", "ok", "")]
    assert upstream.requests == []


async def test_a_refusal_by_all_is_the_clients_error(dispatching: Make, upstream: Upstream) -> None:
    async with dispatching(a=only_chat(upstream), b=only_chat(upstream)) as setup:
        with pytest.raises(UnsupportedError, match="/v1/embeddings"):
            await setup.dispatcher.dispatch(request(**EMBED), route=route("b"))
        assert [row.backend for row in setup.rows()] == ["a", "b"]
    assert upstream.requests == []


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_a_failure_says_more_than_a_refusal(
    dispatching: Make, upstream: Upstream, order: str
) -> None:
    busy = {"fail_rate": 1.0, "fail_status": 429}
    async with dispatching(a=only_chat(upstream), b=busy) as setup:
        going = route(order[1], reference=order[0], retries=0)
        with pytest.raises(UpstreamBusyError):
            await setup.dispatcher.dispatch(request(**EMBED), route=going)


async def test_a_hedge_that_refuses_leaves_the_first_alone(
    dispatching: Make, upstream: Upstream
) -> None:
    routes = {"m": RouteSettings(reference="a", hedge_after_ms=10.0)}
    slow = {"ttft_ms": 60}
    async with dispatching(routes=routes, a=slow, b=only_chat(upstream)) as setup:
        (body,) = await setup.ask(request(**EMBED), route=route("b"))
        assert b'"embedding"' in body
        found = {row.backend: (row.role, row.status) for row in await setup.settled()}
    assert found == {"a": ("first", "ok"), "b": ("hedge", "error")}
