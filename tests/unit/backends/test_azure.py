"""Azure: two paths, two ways to authorize, and nothing of either in an error."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from fungible.backends.azure import AzureBackend
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    ConfigError,
    UpstreamBusyError,
    UpstreamError,
    UpstreamSetupError,
)
from support.azure_upstream import AzureUpstream, machine_identity
from support.replies import parts_of
from support.upstream import Script

VERSION = "2024-10-21"


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AzureUpstream]:
    monkeypatch.setenv("AZURE_KEY", "azure-canary")
    async with AzureUpstream() as server:
        yield server


def settings(upstream: AzureUpstream, *, key: bool = True, **options: Any) -> BackendSettings:
    return BackendSettings(
        kind="azure",
        url=upstream.url.removesuffix("/v1"),
        model="my deployment",
        api_key_env="AZURE_KEY" if key else "",
        options=options,
    )


def ask(*, stream: bool = False, endpoint: Any = "chat/completions") -> InferenceRequest:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    body |= {"temperature": 0.5, "stop": ["x"], "seed": 1}
    if endpoint == "embeddings":
        body = {"model": "m", "input": "hi"}
    if stream:
        body["stream"] = True
    return InferenceRequest(
        request_id="req_1", model="m", body=body, stream=stream, endpoint=endpoint
    )


async def answer(backend: AzureBackend, request: InferenceRequest) -> list[bytes]:
    reply = await backend.send(request)
    try:
        return [part async for part in parts_of(reply)]
    finally:
        await reply.close()


async def ask_once(place: BackendSettings, request: InferenceRequest | None = None) -> list[bytes]:
    backend = AzureBackend("b", place)
    await backend.start()
    try:
        return await answer(backend, request or ask())
    finally:
        await backend.close()


@pytest.mark.parametrize("api", ["v1", "deployments"])
async def test_it_asks_where_and_as_the_vendors_own_client_does(
    upstream: AzureUpstream, api: str
) -> None:
    """The same question through the `openai` SDK: same path, same query, same key header."""
    older = {"api": "deployments", "api_version": VERSION} if api == "deployments" else {}
    for stream in (False, True):
        assert await ask_once(settings(upstream, **older), ask(stream=stream))
    root = upstream.url.removesuffix("/v1")
    if older:
        client: Any = openai.AsyncAzureOpenAI(
            azure_endpoint=root, api_key="azure-canary", api_version=VERSION, max_retries=0
        )
    else:
        client = openai.AsyncOpenAI(
            base_url=f"{root}/openai/v1/",
            api_key="azure-canary",
            default_headers={"api-key": "azure-canary"},
            max_retries=0,
        )
    async with client:
        await client.chat.completions.create(
            model="my deployment", messages=[{"role": "user", "content": "hi"}]
        )
    ours, streamed, theirs = upstream.requests
    assert ours.path == streamed.path == theirs.path
    assert ours.headers["api-key"] == theirs.headers["api-key"]
    assert ours.body["model"] == theirs.body["model"] == "my deployment"
    assert not upstream.violations


@pytest.mark.parametrize("suffix", ["", "/", "/openai", "/openai/v1", "/openai/v1/"])
async def test_the_address_may_be_copied_with_its_path(
    upstream: AzureUpstream, suffix: str
) -> None:
    place = settings(upstream)
    place = BackendSettings(
        kind="azure", url=place.url + suffix, model="d", api_key_env=place.api_key_env
    )
    assert await ask_once(place)
    assert upstream.requests[0].path == "/openai/v1/chat/completions"


async def test_each_path_says_what_it_speaks(upstream: AzureUpstream) -> None:
    new = AzureBackend("b", settings(upstream))
    old = AzureBackend("b", settings(upstream, api="deployments", api_version=VERSION))
    assert new.capabilities.endpoints - old.capabilities.endpoints == {"responses"}
    upstream.default = Script(body=b'{"data": []}')
    assert await ask_once(settings(upstream), ask(endpoint="embeddings"))
    assert upstream.requests[0].path == "/openai/v1/embeddings"
    narrow = AzureBackend("b", settings(upstream, endpoints=["embeddings"]))
    assert narrow.capabilities.endpoints == {"embeddings"}


async def test_without_a_key_the_machines_identity_authorizes(
    upstream: AzureUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Microsoft's own library against an identity endpoint: one token serves many requests."""
    async with machine_identity(lifetime_s=86_400) as (url, given):
        monkeypatch.setenv("IDENTITY_ENDPOINT", url)
        monkeypatch.setenv("IDENTITY_HEADER", "header-canary")
        upstream.authorized = {("authorization", "Bearer entra-canary-0")}
        backend = AzureBackend("b", settings(upstream, key=False))
        await backend.start()
        await asyncio.gather(*(answer(backend, ask()) for _ in range(5)))
        assert await backend.healthy()
        upstream.default = Script(
            status=401, error_body=b'{"error": {"message": "no entra-canary-0"}}'
        )
        with pytest.raises(UpstreamSetupError, match="no ") as caught:
            await answer(backend, ask())
        assert "canary" not in str(caught.value.to_openai())
        await backend.close()
        assert given == ["entra-canary-0"]
    assert not upstream.violations


async def test_no_identity_is_an_error_that_tells_no_secret(
    upstream: AzureUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine_identity(lifetime_s=60, status=400) as (url, _):
        monkeypatch.setenv("IDENTITY_ENDPOINT", url)
        monkeypatch.setenv("IDENTITY_HEADER", "header-canary")
        monkeypatch.setenv("PATH", "")  # no `az` either
        backend = AzureBackend("b", settings(upstream, key=False))
        await backend.start()
        with pytest.raises(UpstreamSetupError, match="no access token") as caught:
            await answer(backend, ask())
        assert "az login" in caught.value.hint
        assert "canary" not in str(caught.value.to_openai())
        assert not await backend.healthy()
        await backend.close()


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_a_quoted_key_is_not_passed_on(upstream: AzureUpstream, status: int) -> None:
    upstream.default = Script(
        status=status, error_body=b'{"error": {"code": "x", "message": "bad key: azure-canary"}}'
    )
    with pytest.raises(UpstreamError, match="bad key") as caught:
        await ask_once(settings(upstream))
    assert "canary" not in str(caught.value.to_openai())


async def test_a_stream_cannot_quote_it_either(upstream: AzureUpstream) -> None:
    upstream.default = Script(words=("the key is azure-canary",))
    assert not any(
        b"canary" in part for part in await ask_once(settings(upstream), ask(stream=True))
    )


async def test_the_wait_is_read_to_the_millisecond(upstream: AzureUpstream) -> None:
    upstream.default = Script(status=429, headers={"retry-after-ms": "1500", "Retry-After": "2"})
    with pytest.raises(UpstreamBusyError) as caught:
        await ask_once(settings(upstream))
    assert caught.value.retry_after_s == 1.5


def test_what_cannot_work_is_said_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"backend\.b\.url"):
        AzureBackend("b", BackendSettings(kind="azure"))
    place = BackendSettings(kind="azure", url="https://x", options={"api": "deployments"})
    with pytest.raises(ConfigError, match="api_version"):
        AzureBackend("b", place)


async def test_a_key_that_is_not_set_is_named(
    upstream: AzureUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_KEY")
    with pytest.raises(ConfigError, match="AZURE_KEY is not set"):
        await ask_once(settings(upstream))
