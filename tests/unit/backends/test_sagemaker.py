"""SageMaker endpoints: OpenAI bodies by signed invocations, streams in payload parts."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from fungible.backends.sagemaker import SageMakerBackend
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import frame_data
from fungible.errors import (
    ConfigError,
    StreamBrokenError,
    UpstreamBusyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRejectedError,
)
from support.aws_upstream import SageMakerUpstream
from support.places import AWS
from support.replies import parts_of
from support.upstream import Script


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def upstream() -> AsyncIterator[SageMakerUpstream]:
    async with SageMakerUpstream() as server:
        yield server


async def ask(upstream: SageMakerUpstream, *, stream: bool = True, **options: Any) -> list[bytes]:
    place = BackendSettings(
        kind="sagemaker",
        url=upstream.url.removesuffix("/v1"),
        region="us-east-1",
        model="lmi",
        options={"endpoint": "my-endpoint"} | options,
    )
    backend = SageMakerBackend("b", place)
    await backend.start()
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    request = InferenceRequest(request_id="r", model="m", body=body, stream=stream)
    try:
        reply = await backend.send(request)
        try:
            return [part async for part in parts_of(reply)]
        finally:
            await reply.close()
    finally:
        await backend.close()


async def test_headers_and_bodies_are_as_the_service_model_says(
    upstream: SageMakerUpstream,
) -> None:
    for stream in (False, True):
        assert await ask(upstream, stream=stream, component="part-1", variant="blue")
    assert not upstream.violations
    (whole, given), (streamed, given_streamed) = upstream.operations
    assert (whole, streamed) == ("InvokeEndpoint", "InvokeEndpointWithResponseStream")
    assert given["EndpointName"] == given_streamed["EndpointName"] == "my-endpoint"
    assert given["InferenceComponentName"] == "part-1"
    assert given["TargetVariant"] == "blue"
    assert (given["Accept"], given_streamed["Accept"]) == ("application/json", "text/event-stream")
    assert msgspec.json.decode(given["Body"])["model"] == "lmi"


async def test_events_are_whole_again(upstream: SageMakerUpstream) -> None:
    frames = await ask(upstream)
    assert frame_data(frames[-1]) == b"[DONE]"
    assert all(frame.endswith(b"\n\n") for frame in frames)


@pytest.mark.parametrize(
    ("wrapped", "error", "said"),
    [
        (
            {
                "OriginalStatusCode": 400,
                "OriginalMessage": '{"message": "too long"}',
                "Message": "m",
            },
            UpstreamRejectedError,
            "400: too long",
        ),
        ({"OriginalStatusCode": 503, "OriginalMessage": "full"}, UpstreamBusyError, "503: full"),
        ({"Message": "aws-session-canary"}, UpstreamConnectError, r"500: \[key\]"),
    ],
)
async def test_the_containers_own_words_count(
    upstream: SageMakerUpstream, wrapped: dict[str, Any], error: type[UpstreamError], said: str
) -> None:
    upstream.default = Script(status=424, error_body=msgspec.json.encode(wrapped))
    with pytest.raises(error, match=said):
        await ask(upstream)


@pytest.mark.parametrize("kind", ["ModelStreamError", "InternalStreamFailure"])
async def test_an_exception_breaks_the_stream(upstream: SageMakerUpstream, kind: str) -> None:
    upstream.exception = kind, {"Message": "out of memory"}
    upstream.default = Script(error_after=1)
    with pytest.raises(StreamBrokenError, match=f"{kind}: out of memory"):
        await ask(upstream)


def test_what_cannot_work_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        SageMakerBackend("b", BackendSettings(kind="sagemaker"))
    place = BackendSettings(kind="sagemaker", api_key_env="X", options={"endpoint": "e"})
    with pytest.raises(ConfigError, match="signed requests only"):
        SageMakerBackend("b", place)
