"""The stock OpenAI client, unchanged, against a gateway process in front of a scripted server."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from fungible.config import (
    BackendSettings,
    Config,
    GatewaySettings,
    KeySettings,
    RouteSettings,
)
from fungible.contract.events import AttemptEvent
from support.control_setup import write_config
from support.processes import Server, ask
from support.rows import rows
from support.upstream import Script, Upstream

KEY = "fk-secret"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


class World:
    """A gateway process, the upstream behind it, and a client in front of it."""

    def __init__(self, config: Config, server: Server, upstream: Upstream) -> None:
        self.config = config
        self.server = server
        self.upstream = upstream
        self.client = self.client_with(KEY)

    def client_with(self, key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.server.url}/v1", api_key=key, max_retries=0)

    async def rows(self, count: int) -> list[AttemptEvent]:
        """Rows, once there are so many: what a client cut short is written a moment later."""
        async with asyncio.timeout(20):
            while len(found := rows(self.config.spool_path())) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Upstream() as upstream:
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        config = Config(
            home=str(tmp_path),
            gateway=GatewaySettings(port=0, max_body_bytes=20_000),
            backend={"a": BackendSettings(url=upstream.url, model="their-name")},
            route={"assistant": RouteSettings(reference="a", retries=0)},
            key={"team": KeySettings(hash=digest, owner="ml", customer="acme", feature="")},
        )
        server = Server("gateway", "serve", "--config", str(write_config(config)))
        await asyncio.to_thread(server.start)
        world = World(config, server, upstream)
        try:
            yield world
        finally:
            await world.client.close()
            await asyncio.to_thread(server.stop)


async def test_a_whole_answer_with_attribution(world: World) -> None:
    raw = await world.client.chat.completions.with_raw_response.create(
        model="assistant",
        messages=HELLO,
        user="u1",
        metadata={"feature": "search", "customer": "somebody-else", "team": "red"},
        extra_body={"top_k": 40, "nested": {"a": [1, None]}},
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "Grüße aus Köln"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
    assert raw.headers["x-fungible-backend"] == "a"
    assert raw.headers["x-fungible-route-version"] == "0"
    sent = world.upstream.requests[0]
    assert (sent.body["top_k"], sent.body["nested"]) == (40, {"a": [1, None]})
    assert sent.body["model"] == "their-name"
    assert KEY not in str(sent.headers)
    (row,) = await world.rows(1)
    assert row.request_id == raw.headers["x-fungible-request-id"]
    assert (row.key, row.owner, row.customer) == ("team", "ml", "acme")
    assert (row.feature, row.session, row.tags) == ("search", "u1", {"team": "red"})


@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream(world: World, usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    stream = await world.client.chat.completions.create(
        model="assistant", messages=HELLO, stream=True, **options
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Grüße aus Köln"
    assert [c.usage.total_tokens for c in chunks if c.usage] == ([10] if usage else [])
    (row,) = await world.rows(1)
    assert (row.status, row.in_uncached, row.out_visible) == ("ok", 7, 3)


async def test_errors_are_the_sdks_own_classes(world: World) -> None:
    create = world.client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="nothing-like-it"):
        await create(model="nothing-like-it", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="messages") as caught:
        await create(model="assistant", messages=[])
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await create(model="assistant", messages=HELLO, temperature=9)
    async with world.client_with("fk-wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="assistant", messages=HELLO)
    assert world.upstream.requests == []
    assert rows(world.config.spool_path()) == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (401, openai.InternalServerError),  # the gateway's key is wrong, not the client's
    ],
)
async def test_an_upstreams_errors_keep_their_meaning(
    world: World, status: int, error: type[openai.APIStatusError]
) -> None:
    world.upstream.default = Script(status=status)
    for stream in (False, True):
        with pytest.raises(error) as caught:
            await world.client.chat.completions.create(
                model="assistant", messages=HELLO, stream=stream
            )
        assert type(caught.value) is error
    assert [row.status for row in await world.rows(2)] == ["error", "error"]


async def test_a_broken_stream_says_so_and_never_ends_as_if_whole(world: World) -> None:
    world.upstream.default = Script(cut_after=1)
    stream = await world.client.chat.completions.create(
        model="assistant", messages=HELLO, stream=True
    )
    first = await anext(stream)
    assert first.choices[0].delta.content == "Grüße"
    with pytest.raises(openai.APIError, match="without"):
        await anext(stream)
    (row,) = await world.rows(1)
    assert (row.status, row.error_code, row.usage_source) == (
        "interrupted",
        "stream_broken",
        "estimated",
    )


@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_leaves_cancels_the_call_upstream(world: World, begun: bool) -> None:
    world.upstream.default = Script(
        wait_s=0 if begun else 60, word_s=0.02 if begun else 0, words=("ab",) * 5000
    )

    async def use() -> None:
        stream = await world.client.chat.completions.create(
            model="assistant", messages=HELLO, stream=True
        )
        async for _ in stream:
            break
        await stream.close()

    using = asyncio.create_task(use())
    await world.upstream.arrived(1)
    if not begun:
        using.cancel()
    await asyncio.gather(using, return_exceptions=True)
    await asyncio.wait_for(world.upstream.requests[0].disconnected.wait(), 20)
    (row,) = await world.rows(1)
    assert (row.status, row.usage_source) == ("cancelled", "estimated" if begun else "none")
    assert (row.output_chars is not None) == begun


async def test_models_are_listed(world: World) -> None:
    assert [model.id async for model in world.client.models.list()] == ["assistant"]


async def test_what_no_sdk_would_send(world: World) -> None:
    url, path = world.server.url, "/v1/chat/completions"

    async def send(body: object, method: str = "POST", where: str = path) -> tuple[int, Any]:
        return await asyncio.to_thread(ask, url, method, where, body, token=KEY)

    for body in (b"{not json", b"\xff", b"[]", b"[" * 10_000, b'{"model": 3}'):
        status, answer = await send(body)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error"), body
    status, answer = await send({"model": "assistant", "messages": HELLO, "x": "y" * 30_000})
    assert status == 413
    assert "20000" in answer["error"]["message"]
    assert (await send(None, "GET"))[0] == 405
    assert (await send(None, "GET", "/v1/nothing"))[0] == 404
    status, health = await send(None, "GET", "/health")
    assert (status, health["status"], health["route_version"]) == (200, "ok", 0)
    assert world.upstream.requests == []
