"""Anthropic: headers, refusals and streams as its own SDK sends and reads them."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent

from fungible.backends.anthropic import AnthropicBackend
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    StreamBrokenError,
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRejectedError,
    UpstreamSetupError,
)
from support.anthropic_upstream import AnthropicUpstream
from support.forms import MessagesForm, decoded
from support.replies import parts_of
from support.sdk_types import check_shape
from support.upstream import Script


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AnthropicUpstream]:
    monkeypatch.setenv("CLAUDE_KEY", "anthropic-canary")
    async with AnthropicUpstream() as server:
        yield server


def ask(*, stream: bool = False, endpoint: Any = "messages", **fields: Any) -> InferenceRequest:
    body = MessagesForm().body(stream=stream, usage=True) | fields
    return InferenceRequest(request_id="r", model="m", body=body, stream=stream, endpoint=endpoint)


async def answer(
    upstream: AnthropicUpstream, request: InferenceRequest | None = None, **options: Any
) -> list[bytes]:
    root = upstream.url.removesuffix("/v1")
    place = BackendSettings(
        kind="anthropic", url=root, api_key_env="CLAUDE_KEY", model="claude", options=options
    )
    backend = AnthropicBackend("b", place)
    await backend.start()
    try:
        reply = await backend.send(request or ask())
        try:
            return [part async for part in parts_of(reply)]
        finally:
            await reply.close()
    finally:
        await backend.close()


async def test_it_asks_as_the_vendors_own_client_does(upstream: AnthropicUpstream) -> None:
    """The SDK also reads what our server says, so that the server is worth testing against."""
    (whole,) = await answer(upstream)
    events = await answer(upstream, ask(stream=True))
    root = upstream.url.removesuffix("/v1")
    async with anthropic.AsyncAnthropic(base_url=root, api_key="anthropic-canary") as client:
        asked: Any = {"model": "claude", "max_tokens": 9}
        asked["messages"] = [{"role": "user", "content": "hi"}]
        assert (await client.messages.create(**asked)).usage.output_tokens == 3
        async with client.messages.stream(**asked) as stream:
            assert await stream.get_final_text() == "Grüße aus Köln"
    assert not upstream.violations
    ours, streamed, theirs, their_stream = upstream.requests
    assert (ours.path, streamed.path) == (theirs.path, their_stream.path)
    assert (ours.body, streamed.body) == (theirs.body, their_stream.body)
    for name in ("authorization", "anthropic-version", "content-type"):
        assert ours.headers[name] == theirs.headers[name]
    check_shape(Message, decoded([b"data: " + whole + b"\n\n"])[0])
    for event in decoded(events):
        if event["type"] != "ping":
            check_shape(RawMessageStreamEvent, event, known=False)


async def test_tokens_are_counted_by_the_vendor(upstream: AnthropicUpstream) -> None:
    upstream.default = Script(body=b'{"input_tokens": 12}')
    request = ask(endpoint="messages/count_tokens")
    del request.body["max_tokens"]
    assert await answer(upstream, request) == [b'{"input_tokens": 12}']
    assert upstream.requests[0].path == "/v1/messages/count_tokens"
    assert not upstream.violations


async def test_fields_and_events_that_we_do_not_know_pass_through(
    upstream: AnthropicUpstream,
) -> None:
    body = upstream.event("content_block_delta", index=0, delta={"type": "brand_new"})
    upstream.default = Script(content_type="text/event-stream", body=body)
    assert await answer(upstream, ask(stream=True)) == [body]
    await answer(upstream, ask(stream=True, thinking={"type": "enabled", "budget_tokens": 1024}))
    assert upstream.requests[1].body["thinking"]["budget_tokens"] == 1024


async def test_options_are_headers(upstream: AnthropicUpstream) -> None:
    await answer(upstream, beta=["one", "two"], auth="x-api-key")
    headers = upstream.requests[0].headers
    assert headers["anthropic-beta"] == "one,two"
    assert headers["x-api-key"] == "anthropic-canary"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", UpstreamRejectedError),
        (413, "request_too_large", UpstreamRejectedError),
        (401, "authentication_error", UpstreamSetupError),
        (403, "permission_error", UpstreamSetupError),
        (429, "rate_limit_error", UpstreamBusyError),
        (500, "api_error", UpstreamConnectError),
        (529, "overloaded_error", UpstreamBusyError),
    ],
)
async def test_refusals(
    upstream: AnthropicUpstream, status: int, kind: str, error: type[UpstreamError]
) -> None:
    said = f'{{"type": "error", "error": {{"type": "{kind}", "message": "no: anthropic-canary"}}}}'
    upstream.default = Script(status=status, error_body=said.encode(), headers={"retry-after": "7"})
    with pytest.raises(error, match=f"{status}: no: ") as caught:
        await answer(upstream)
    assert caught.value.retry_after_s == 7
    assert "canary" not in str(caught.value.to_openai())


async def test_an_error_in_the_stream_is_passed_on_for_its_reader(
    upstream: AnthropicUpstream,
) -> None:
    upstream.default = Script(error_after=1)
    last = decoded(await answer(upstream, ask(stream=True)))[-1]
    assert last["error"] == {"type": "overloaded_error", "message": "Overloaded"}


async def test_a_cut_connection_breaks_the_stream(upstream: AnthropicUpstream) -> None:
    upstream.default = Script(reset_after=1)
    with pytest.raises(StreamBrokenError):
        await answer(upstream, ask(stream=True))
