"""Fields that a backend would not act on: left out and named, or refused by name."""

from typing import Any

import pytest

from fungible.backends.base import Capabilities
from fungible.backends.openai_http import OpenAIHTTPBackend
from fungible.config import BackendSettings, GatewaySettings, RouteSettings
from support.gateway import BODY, Make
from support.upstream import Upstream

ROUTES = {"m": RouteSettings(reference="a")}
MESSAGE = {**BODY, "max_tokens": 5, "service_tier": "auto"}


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts `seed` and `logit_bias` and ignores them."""
    start = OpenAIHTTPBackend.start

    async def begin(self: OpenAIHTTPBackend) -> None:
        self.capabilities = Capabilities(ignored_fields=frozenset({"seed", "logit_bias"}))
        await start(self)

    monkeypatch.setattr(OpenAIHTTPBackend, "start", begin)


def settings(policy: str, upstream: Upstream) -> dict[str, Any]:
    return {
        "gateway": GatewaySettings(fields=policy),  # type: ignore[arg-type]
        "backend": {"a": BackendSettings(url=upstream.url)},
        "route": ROUTES,
    }


@pytest.mark.usefixtures("forgetful")
async def test_lenient_leaves_out_and_says_so(serving: Make, upstream: Upstream) -> None:
    async with serving(**settings("lenient", upstream)) as gateway:
        for stream in (False, True):
            call = await gateway.ask(seed=1, logit_bias={}, x_other=2, stream=stream)
            assert (call.status, call.headers["x-fungible-dropped"]) == (200, "seed")
        plain = await gateway.ask(seed=None)
        assert "x-fungible-dropped" not in plain.headers
    assert all("seed" not in sent.body for sent in upstream.requests[:2])
    assert all(sent.body["x_other"] == 2 for sent in upstream.requests[:2])


@pytest.mark.usefixtures("forgetful")
async def test_strict_refuses_by_name(serving: Make, upstream: Upstream) -> None:
    async with serving(**settings("strict", upstream)) as gateway:
        call = await gateway.ask(seed=1)
        assert (call.status, call.json()["error"]["code"]) == (400, "unsupported")
        assert call.json()["error"]["param"] == "seed"
        assert (await gateway.ask(x_other=2)).status == 200
        assert [row.status for row in gateway.rows()] == ["error", "ok"]
    assert len(upstream.requests) == 1


async def test_odd_names_of_dropped_fields_fit_into_a_header(
    serving: Make, upstream: Upstream
) -> None:
    names = ["a\r\nset-cookie: x", "\u20ac\x00", "n" * 99, *(f"more{at}" for at in range(97))]
    async with serving(**settings("lenient", upstream)) as gateway:
        body = {**BODY, "max_tokens": 5, **dict.fromkeys(names, 1)}
        call = await gateway.call(body, path="/v1/messages").done()
    assert call.status == 200
    said = call.headers["x-fungible-dropped"].split(", ")
    assert said[-1] == "and 68 more"
    assert all(len(one) <= 80 and one.isascii() and one.isprintable() for one in said)


@pytest.mark.parametrize(("policy", "status"), [("lenient", 200), ("strict", 400)])
async def test_what_a_bridge_cannot_say_follows_the_same_policy(
    serving: Make, upstream: Upstream, policy: str, status: int
) -> None:
    async with serving(**settings(policy, upstream)) as gateway:
        call = await gateway.call(MESSAGE, path="/v1/messages").done()
        assert call.status == status
        if status == 200:
            assert call.headers["x-fungible-dropped"] == "service_tier"
            assert call.json()["type"] == "message"
        else:
            assert call.json()["type"] == "error"
            assert "service_tier" in call.json()["error"]["message"]


async def test_an_endpoint_that_nothing_bridges_is_refused(
    serving: Make, upstream: Upstream
) -> None:
    spoken = BackendSettings(url=upstream.url, options={"endpoints": []})
    async with serving(backend={"a": spoken}, route=ROUTES) as gateway:
        call = await gateway.call({"model": "m", "input": "x"}, path="/v1/embeddings").done()
        assert (call.status, call.json()["error"]["code"]) == (400, "unsupported")
        counting = {"model": "m", "messages": BODY["messages"]}
        call = await gateway.call(counting, path="/v1/messages/count_tokens").done()
        assert (call.status, call.json()["error"]["type"]) == (400, "invalid_request_error")
    assert upstream.requests == []
