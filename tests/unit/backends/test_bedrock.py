"""Bedrock: signatures, credentials that expire, exceptions and damage inside the event stream."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import botocore.session
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from botocore.config import Config

from fungible.backends.bedrock import BedrockBackend
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    ConfigError,
    StreamBrokenError,
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRejectedError,
    UpstreamSetupError,
    UpstreamTimeoutError,
)
from support.aws_upstream import BedrockUpstream
from support.places import AWS
from support.replies import parts_of
from support.upstream import Script

ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.vendor.model-1:0"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def upstream() -> AsyncIterator[BedrockUpstream]:
    async with BedrockUpstream() as server:
        yield server


def settings(upstream: BedrockUpstream, **fields: Any) -> BackendSettings:
    root = upstream.url.removesuffix("/v1")
    given = {"url": root, "region": "us-east-1", "model": ARN} | fields
    return BackendSettings(kind="bedrock", **given)


def ask(*, stream: bool = True, **fields: Any) -> InferenceRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream} | fields
    return InferenceRequest(request_id="req_1", model="m", body=body, stream=stream)


async def answer(backend: BedrockBackend, request: InferenceRequest) -> list[bytes]:
    reply = await backend.send(request)
    try:
        return [part async for part in parts_of(reply)]
    finally:
        await reply.close()


async def ask_once(place: BackendSettings, request: InferenceRequest | None = None) -> list[bytes]:
    backend = BedrockBackend("b", place)
    await backend.start()
    try:
        return await answer(backend, request or ask())
    finally:
        await backend.close()


async def test_amazons_own_client_asks_the_same_and_reads_our_server(
    upstream: BedrockUpstream,
) -> None:
    """The fake is only worth its tests if botocore itself finds nothing wrong with it."""

    def theirs() -> str:
        client = botocore.session.Session().create_client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=upstream.url.removesuffix("/v1"),
            config=Config(retries={"total_max_attempts": 1}),
        )
        asked = {"modelId": ARN, "messages": [{"role": "user", "content": [{"text": "hi"}]}]}
        whole = client.converse(**asked, inferenceConfig={"maxTokens": 5})
        events = list(client.converse_stream(**asked)["stream"])
        client.close()
        assert events[-1]["metadata"]["usage"]["inputTokens"] == 7
        deltas = [event["contentBlockDelta"] for event in events if "contentBlockDelta" in event]
        assert "".join(one["delta"]["text"] for one in deltas) == "Grüße aus Köln"
        return str(whole["output"]["message"]["content"][0]["text"])

    assert await asyncio.to_thread(theirs) == "Grüße aus Köln"
    await ask_once(settings(upstream), ask(stream=False, max_tokens=5))
    await ask_once(settings(upstream))
    assert not upstream.violations
    whole, streamed, our_whole, our_streamed = upstream.requests
    assert (whole.path, streamed.path) == (our_whole.path, our_streamed.path)
    assert (whole.body, streamed.body) == (our_whole.body, our_streamed.body)
    assert our_whole.headers["x-amz-security-token"] == "aws-session-canary"


async def test_options_reach_the_wire(upstream: BedrockUpstream) -> None:
    options = {
        "guardrail": "abc123",
        "guardrail_version": "1",
        "latency": "optimized",
        "service_tier": "priority",
        "additional_fields": {"thinking": {"type": "enabled"}, "top_k": 1},
    }
    await ask_once(settings(upstream, options=options), ask(top_k=7, service_tier="flex"))
    (sent,) = upstream.requests
    assert not upstream.violations
    assert sent.body["guardrailConfig"] == {
        "guardrailIdentifier": "abc123",
        "guardrailVersion": "1",
    }
    assert sent.body["performanceConfig"] == {"latency": "optimized"}
    assert sent.body["serviceTier"] == {"type": "flex"}
    extra = {"thinking": {"type": "enabled"}, "top_k": 7}
    assert sent.body["additionalModelRequestFields"] == extra


async def test_a_bedrock_key_authorizes_instead_of_a_signature(
    upstream: BedrockUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key-canary")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    upstream.bearer = "bedrock-key-canary"
    assert await ask_once(settings(upstream, api_key_env="AWS_BEARER_TOKEN_BEDROCK"))
    assert not upstream.violations


async def test_credentials_that_expire_are_fetched_again_and_off_the_loop(
    upstream: BedrockUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's role by its real provider; each set is good for two minutes only."""
    given = 0

    async def role(request: web.Request) -> web.Response:
        nonlocal given
        given += 1
        await asyncio.sleep(0)  # this loop answers, so it was not blocked
        until = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=2)
        return web.json_response(
            {
                "AccessKeyId": f"ASIA{given}",
                "SecretAccessKey": AWS["AWS_SECRET_ACCESS_KEY"],
                "Token": f"role-canary-{given}",
                "Expiration": until.isoformat(),
            }
        )

    app = web.Application()
    app.router.add_get("/role", role)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    async with TestServer(app) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", str(server.make_url("/role")))
        backend = BedrockBackend("b", settings(upstream))
        await backend.start()
        await answer(backend, ask())
        await answer(backend, ask())
        await backend.close()
    assert not upstream.violations
    assert given >= 2
    tokens = [seen.headers["x-amz-security-token"] for seen in upstream.requests]
    assert tokens[0] != tokens[1]


async def test_expired_credentials_let_another_backend_try_and_tell_no_secret(
    upstream: BedrockUpstream,
) -> None:
    said = {"message": "The security token aws-session-canary included is expired"}
    upstream.default = Script(
        status=403,
        error_body=msgspec.json.encode(said),
        headers={"x-amzn-ErrorType": "ExpiredTokenException"},
    )
    with pytest.raises(UpstreamSetupError, match="is expired") as caught:
        await ask_once(settings(upstream))
    assert caught.value.transient
    assert "AWS_PROFILE" in caught.value.hint
    assert "canary" not in str(caught.value.to_openai())


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ({"message": "m", "originalStatusCode": 429}, UpstreamBusyError, "answered 429: m"),
        (
            {"message": "m", "originalStatusCode": 400, "originalMessage": "bad"},
            UpstreamRejectedError,
            "400: bad",
        ),
        ({"message": "m"}, UpstreamConnectError, "500: m"),
        ([], UpstreamConnectError, "500"),
    ],
)
async def test_a_failed_model_is_judged_by_its_own_status(
    upstream: BedrockUpstream, body: Any, error: type[UpstreamError], said: str
) -> None:
    upstream.default = Script(status=424, error_body=msgspec.json.encode(body))
    with pytest.raises(error, match=said):
        await ask_once(settings(upstream))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("internalServerException", StreamBrokenError),
        ("modelStreamErrorException", StreamBrokenError),
        ("throttlingException", UpstreamBusyError),
        ("serviceUnavailableException", UpstreamBusyError),
        ("modelTimeoutException", UpstreamTimeoutError),
        ("validationException", UpstreamRejectedError),
    ],
)
@pytest.mark.parametrize("after", [0, 1])
async def test_an_exception_inside_the_stream(
    upstream: BedrockUpstream, kind: str, error: type[UpstreamError], after: int
) -> None:
    upstream.exception = kind, {"message": "gone: aws-session-canary"}
    upstream.default = Script(error_after=after)
    backend = BedrockBackend("b", settings(upstream))
    await backend.start()
    reply = await backend.send(ask())
    parts = parts_of(reply)
    for _ in range(after):
        assert (await anext(parts)).startswith(b"data: ")
    with pytest.raises(error, match=f"{kind}: gone") as caught:
        await anext(parts)
    assert "canary" not in str(caught.value.to_openai())
    await reply.close()
    await backend.close()


async def test_a_damaged_event_is_never_shown(upstream: BedrockUpstream) -> None:
    upstream.damaged = True
    with pytest.raises(StreamBrokenError, match="damaged event: ChecksumMismatch"):
        await ask_once(settings(upstream))


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (Script(malformed_after=1), StreamBrokenError),
        (Script(reset_after=1), StreamBrokenError),
        (Script(stall_after=1), UpstreamTimeoutError),
        (Script(content_type="application/json", body=b"{}"), UpstreamConnectError),
    ],
)
async def test_what_breaks_has_a_name(
    upstream: BedrockUpstream, script: Script, error: type[UpstreamError]
) -> None:
    upstream.default = script
    with pytest.raises(error):
        await ask_once(settings(upstream, options={"idle_timeout_s": 0.3}))


@pytest.mark.parametrize("piece", [1, 7])
async def test_frames_may_be_cut_anywhere(upstream: BedrockUpstream, piece: int) -> None:
    upstream.default = Script(piece=piece)
    cut = await ask_once(settings(upstream))
    upstream.default = Script()
    assert len(cut) == len(await ask_once(settings(upstream)))


async def test_closing_cancels_the_call(upstream: BedrockUpstream) -> None:
    upstream.default = Script(word_s=0.05, words=("a",) * 1000)
    backend = BedrockBackend("b", settings(upstream))
    await backend.start()
    reply = await backend.send(ask())
    await anext(reply.chunks())
    await reply.close()
    await asyncio.wait_for(upstream.requests[0].disconnected.wait(), 10)
    await backend.close()


async def test_what_is_missing_is_named_at_the_start(
    upstream: BedrockUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"backend\.b\.region"):
        await ask_once(settings(upstream, region=""))
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert await ask_once(settings(upstream, region=""))
    with pytest.raises(ConfigError, match="nobody"):
        await ask_once(settings(upstream, options={"profile": "nobody"}))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match="no AWS credentials"):
        await ask_once(settings(upstream))


async def test_addresses_follow_the_region() -> None:
    for region, host in [
        ("us-east-1", "bedrock-runtime.us-east-1.amazonaws.com"),
        ("cn-north-1", "bedrock-runtime.cn-north-1.amazonaws.com.cn"),
    ]:
        backend = BedrockBackend("b", BackendSettings(kind="bedrock", region=region))
        await backend.start()
        assert backend._service._root == f"https://{host}"
        await backend.close()
