"""What real servers do on the wire: odd framing, lies, silence, and connections that break."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from fungible.backends.openai_http import OpenAIHTTPBackend
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import frame_data
from fungible.errors import (
    ConfigError,
    StreamBrokenError,
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeoutError,
)
from support.replies import parts_of
from support.upstream import Script, Upstream

QUICK = {"idle_timeout_s": 0.3, "connect_timeout_s": 2.0}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


async def started(upstream: Upstream, **settings: Any) -> OpenAIHTTPBackend:
    backend = OpenAIHTTPBackend("b", BackendSettings(url=upstream.url, options=QUICK, **settings))
    await backend.start()
    return backend


@pytest.fixture
async def backend(upstream: Upstream) -> AsyncIterator[OpenAIHTTPBackend]:
    one = await started(upstream)
    yield one
    await one.close()


def ask(*, stream: bool = True, **fields: object) -> InferenceRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return InferenceRequest(request_id="req_1", model="m", body=body | fields, stream=stream)


async def answer(backend: OpenAIHTTPBackend, request: InferenceRequest) -> list[bytes]:
    reply = await backend.send(request)
    try:
        return [part async for part in parts_of(reply)]
    finally:
        await reply.close()


def text_of(frames: list[bytes]) -> str:
    chunks = [msgspec.json.decode(frame_data(frame) or b"") for frame in frames[:-1]]
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])


@pytest.mark.parametrize(
    "script",
    [
        Script(bare_colon=True),
        Script(crlf=True),
        Script(piece=1),
        Script(piece=7, crlf=True, bare_colon=True),
        Script(gzipped=True),
        Script(usage="each"),
        Script(words=("Gr", "ü😀", "x" * 300_000)),
    ],
    ids=["no space", "CRLF", "byte by byte", "all three", "gzip", "usage in each", "long"],
)
async def test_any_legal_framing_gives_the_same_text(
    upstream: Upstream, backend: OpenAIHTTPBackend, script: Script
) -> None:
    upstream.default = script
    frames = await answer(backend, ask())
    assert text_of(frames) == "".join(script.words)
    assert frame_data(frames[-1]) == b"[DONE]"


async def test_the_last_blank_line_may_be_missing(
    upstream: Upstream, backend: OpenAIHTTPBackend
) -> None:
    upstream.default = Script(content_type="text/event-stream", body=b"data: [DONE]\n")
    assert frame_data((await answer(backend, ask()))[-1]) == b"[DONE]"


@pytest.mark.parametrize(
    ("script", "stream", "error"),
    [
        (Script(reset_after=1), True, StreamBrokenError),
        (Script(reset_after=0), False, UpstreamConnectError),
        (Script(stall_after=1), True, UpstreamTimeoutError),
        (Script(stall_after=0), False, UpstreamTimeoutError),
        (Script(content_type="text/html", body=b"<html>"), True, UpstreamConnectError),
        (Script(content_type="text/html", body=b"<html>"), False, UpstreamConnectError),
        (Script(body=b"{}"), True, UpstreamConnectError),
        (Script(body=b"{no"), False, UpstreamConnectError),
        (Script(body=b"\xff\xfe"), False, UpstreamConnectError),
        (Script(body=b"[]"), False, UpstreamConnectError),
        (Script(status=302, headers={"Location": "/x"}), False, UpstreamError),
    ],
)
async def test_what_breaks_has_a_name(
    upstream: Upstream,
    backend: OpenAIHTTPBackend,
    script: Script,
    stream: bool,
    error: type[UpstreamError],
) -> None:
    upstream.default = script
    with pytest.raises(error):
        await answer(backend, ask(stream=stream))
    upstream.default = Script()
    assert await answer(backend, ask(stream=stream))


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    backend = OpenAIHTTPBackend("b", BackendSettings(url=f"http://127.0.0.1:{port}/v1"))
    await backend.start()
    with pytest.raises(UpstreamConnectError, match="b cannot be reached"):
        await backend.send(ask())
    assert not await backend.healthy()
    await backend.close()


async def test_an_event_without_end_does_not_fill_memory(
    upstream: Upstream, backend: OpenAIHTTPBackend
) -> None:
    upstream.default = Script(content_type="text/event-stream", body=b"data: " + b"x" * (9 << 20))
    with pytest.raises(StreamBrokenError, match="without an end"):
        await answer(backend, ask())


@pytest.mark.parametrize("begun", [True, False])
async def test_closing_cancels_the_call_upstream(
    upstream: Upstream, backend: OpenAIHTTPBackend, begun: bool
) -> None:
    upstream.default = Script(word_s=0.05, words=("a",) * 1000)
    reply = await backend.send(ask())
    if begun:
        await anext(reply.chunks())
    await reply.close()
    await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)


async def test_cancelling_a_send_cancels_the_call_upstream(
    upstream: Upstream, backend: OpenAIHTTPBackend
) -> None:
    upstream.default = Script(wait_s=30)
    sending = asyncio.create_task(backend.send(ask()))
    await upstream.arrived(1)
    sending.cancel()
    await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)


async def test_the_wait_that_the_upstream_asked_for_is_in_the_hint(
    upstream: Upstream, backend: OpenAIHTTPBackend
) -> None:
    upstream.default = Script(status=429, headers={"Retry-After": "17"})
    with pytest.raises(UpstreamBusyError) as caught:
        await backend.send(ask())
    assert "17" in caught.value.hint


async def test_model_key_and_unknown_fields_on_the_wire(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-canary")
    backend = await started(upstream, model="their-name", api_key_env="UPSTREAM_KEY")
    request = ask(top_k=40, nested={"a": [1, None]})
    await answer(backend, request)
    sent = upstream.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == "Bearer sk-canary"
    assert sent.body == request.body | {"model": "their-name"}
    assert sent.headers["x-request-id"] == "req_1"
    await answer(backend, msgspec.structs.replace(request, attempt_id="att_1"))
    assert upstream.requests[1].headers["x-request-id"] == "att_1"
    await backend.close()


async def test_a_key_that_the_upstream_quotes_is_not_passed_on(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-canary")
    backend = await started(upstream, api_key_env="UPSTREAM_KEY")
    for status in (401, 400, 500):
        quoted = b'{"error": {"message": "bad key: sk-canary"}}'
        upstream.default = Script(status=status, error_body=quoted)
        with pytest.raises(UpstreamError, match="bad key") as caught:
            await backend.send(ask())
        assert "canary" not in str(caught.value.to_openai())
    await backend.close()


async def test_cookies_of_one_answer_do_not_reach_the_next_request(
    upstream: Upstream,
) -> None:
    # By name: a jar keeps no cookies for bare addresses.
    upstream.url = upstream.url.replace("127.0.0.1", "localhost")
    backend = await started(upstream)
    upstream.default = Script(headers={"Set-Cookie": "who=alice; Path=/"})
    await answer(backend, ask())
    await answer(backend, ask())
    assert "cookie" not in upstream.requests[1].headers
    await backend.close()


async def test_a_missing_key_is_named_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    settings = BackendSettings(url="http://127.0.0.1:1/v1", api_key_env="UPSTREAM_KEY")
    with pytest.raises(ConfigError, match=r"backend\.b\.api_key_env: UPSTREAM_KEY is not set"):
        await OpenAIHTTPBackend("b", settings).start()
