"""Vertex AI: two wires, Google's own credentials against a local token endpoint, no secrets out."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fungible.backends.vertex import VertexBackend
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    ConfigError,
    UpstreamBusyError,
    UpstreamError,
    UpstreamSetupError,
)
from support.forms import ChatForm
from support.replies import parts_of
from support.upstream import Script
from support.vertex_upstream import VertexUpstream, service_account


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VertexUpstream]:
    monkeypatch.setenv("GOOGLE_KEY", "google-canary")
    async with VertexUpstream() as server:
        yield server


def settings(
    upstream: VertexUpstream, *, key: bool = True, region: str = "us-central1", **options: Any
) -> BackendSettings:
    return BackendSettings(
        kind="vertex",
        url=upstream.url.removesuffix("/v1"),
        region=region,
        model="gemini-3-flash",
        api_key_env="GOOGLE_KEY" if key else "",
        options=options,
    )


def ask(*, stream: bool = False, **fields: Any) -> InferenceRequest:
    body = ChatForm().body(stream=stream, usage=True) | fields
    return InferenceRequest(request_id="r", model="m", body=body, stream=stream)


async def answer(backend: VertexBackend, request: InferenceRequest) -> list[bytes]:
    reply = await backend.send(request)
    try:
        return [part async for part in parts_of(reply)]
    finally:
        await reply.close()


async def ask_once(place: BackendSettings, request: InferenceRequest | None = None) -> list[bytes]:
    backend = VertexBackend("b", place)
    await backend.start()
    try:
        return await answer(backend, request or ask())
    finally:
        await backend.close()


HOME = "/v1/projects/my-project/locations/us-central1"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"project": "my-project"}, f"{HOME}/endpoints/openapi/chat/completions"),
        (
            {"project": "my-project", "endpoint": "123"},
            f"{HOME}/endpoints/123/chat/completions",
        ),
        (
            {"project": "my-project", "api": "gemini"},
            f"{HOME}/publishers/google/models/gemini-3-flash:generateContent",
        ),
        (
            {"project": "my-project", "api": "gemini", "endpoint": "123"},
            f"{HOME}/endpoints/123:generateContent",
        ),
        ({"api": "gemini"}, "/v1/publishers/google/models/gemini-3-flash:generateContent"),
    ],
)
async def test_paths(upstream: VertexUpstream, options: dict[str, Any], path: str) -> None:
    assert await ask_once(settings(upstream, **options))
    assert upstream.requests[0].path == path
    await ask_once(settings(upstream, **options), ask(stream=True))
    streamed = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
    assert upstream.requests[1].path == streamed
    assert not upstream.violations


async def test_addresses_follow_the_region() -> None:
    for region, host in [
        ("", "aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
    ]:
        backend = VertexBackend("b", BackendSettings(kind="vertex", region=region))
        assert backend._root == f"https://{host}"


async def test_options_reach_gemini(upstream: VertexUpstream) -> None:
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]
    place = settings(upstream, api="gemini", safety=safety, thinking="budget")
    await ask_once(place, ask(reasoning_effort="low"))
    assert not upstream.violations
    sent = upstream.requests[0].body
    assert sent["safetySettings"] == safety
    assert sent["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 1024}


async def test_googles_own_credentials_fetch_one_token_for_many_requests(
    upstream: VertexUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream.authorized = {("authorization", "Bearer google-canary-0")}
    async with service_account(tmp_path) as (path, given):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "billed")
        backend = VertexBackend("b", settings(upstream, key=False))
        await backend.start()
        await asyncio.gather(*(answer(backend, ask()) for _ in range(5)))
        assert await backend.healthy()
        said = b'[{"error": {"message": "expired: google-canary-0"}}]'
        upstream.default = Script(status=401, error_body=said)
        with pytest.raises(UpstreamSetupError, match="expired") as caught:
            await answer(backend, ask())
        assert "canary" not in str(caught.value.to_openai())
        await backend.close()
        assert given == ["google-canary-0"]
    assert not upstream.violations
    assert upstream.requests[0].path.startswith("/v1/projects/my-project/")
    assert upstream.requests[0].headers["x-goog-user-project"] == "billed"


async def test_a_token_about_to_end_is_renewed_while_it_still_serves(
    upstream: VertexUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream.authorized = {("authorization", f"Bearer google-canary-{at}") for at in range(9)}
    async with service_account(tmp_path, lifetime_s=200) as (path, given):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        backend = VertexBackend("b", settings(upstream, key=False))
        await backend.start()
        await answer(backend, ask())
        await answer(backend, ask())  # begins the renewal, with the first token
        async with asyncio.timeout(10):
            while len(given) < 2:  # noqa: ASYNC110  # a test can poll
                await asyncio.sleep(0.01)
        await backend.close()
    tokens = [seen.headers["authorization"] for seen in upstream.requests]
    assert tokens[0] == tokens[1] == "Bearer google-canary-0"


async def test_no_token_is_an_error_that_tells_no_secret(
    upstream: VertexUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with service_account(tmp_path, status=400) as (path, _):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        backend = VertexBackend("b", settings(upstream, key=False))
        await backend.start()
        with pytest.raises(UpstreamSetupError, match="no access token: RefreshError") as caught:
            await answer(backend, ask())
        assert "canary" not in str(caught.value.to_openai())
        assert not await backend.healthy()
        await backend.close()


async def test_an_error_inside_the_stream(upstream: VertexUpstream) -> None:
    upstream.default = Script(error_after=1)
    with pytest.raises(UpstreamBusyError, match="429: Resource exhausted"):
        await ask_once(settings(upstream, api="gemini"), ask(stream=True))


@pytest.mark.parametrize("api", ["openai", "gemini"])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_quoted_key_is_not_passed_on(
    upstream: VertexUpstream, api: str, status: int
) -> None:
    said = b'{"error": {"code": 1, "message": "bad key: google-canary"}}'
    upstream.default = Script(status=status, error_body=said)
    with pytest.raises(UpstreamError, match="bad key") as caught:
        await ask_once(settings(upstream, api=api, project="my-project"))
    assert "canary" not in str(caught.value.to_openai())


async def test_what_is_missing_is_named_at_the_start(
    upstream: VertexUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="project is not set"):
        await ask_once(settings(upstream))
    nothing = tmp_path / "none.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(nothing))
    with pytest.raises(ConfigError, match="no Google credentials"):
        await ask_once(settings(upstream, key=False))
