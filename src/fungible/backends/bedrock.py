"""Amazon Bedrock's Converse and ConverseStream: how Trainium and Inferentia are reached.

It speaks `chat/completions` by translation (`converse_request`, `converse_answer`); the
service model of `bedrock-runtime` is the specification.
"""

from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec

from fungible.backends.aws import (
    EVENT_STREAM,
    AWSOptions,
    AWSService,
    path_part,
    stream_messages,
)
from fungible.backends.base import Capabilities, Reply
from fungible.backends.converse_answer import ConverseStream, stream_exception, whole_answer
from fungible.backends.converse_request import IGNORED, to_converse
from fungible.backends.http_pool import Answer, read_options
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.wire.chat_writing import ChatWriter


class BedrockOptions(AWSOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of kind `bedrock`.

    Attributes:
        guardrail: Identifier of a guardrail, and its version.
        latency: `optimized` where the model has it.
        service_tier: For requests that name none.
        additional_fields: `additionalModelRequestFields` of every request.
    """

    guardrail: str = ""
    guardrail_version: str = "DRAFT"
    latency: Literal["", "standard", "optimized"] = ""
    service_tier: Literal["", "default", "flex", "priority", "reserved"] = ""
    additional_fields: dict[str, Any] = msgspec.field(default_factory=dict)


class BedrockBackend:
    """One region; `model` is a model, an inference profile or any other ARN Converse takes."""

    capabilities = Capabilities(ignored_fields=IGNORED, seed=False, logprobs=False)

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        self._options = read_options(name, settings, BedrockOptions)
        self._service = AWSService(name, settings, self._options, ("bedrock-runtime", "bedrock"))

    async def start(self) -> None:
        """Find credentials and open the pool."""
        await self._service.start()

    async def send(self, request: InferenceRequest) -> Reply:
        """Translate, sign and POST."""
        model = self.settings.model or request.model
        body = msgspec.json.encode(self._with_options(to_converse(request.body)))
        action = "converse-stream" if request.stream else "converse"
        wanted = EVENT_STREAM if request.stream else "application/json"
        answer = await self._service.post(
            f"/model/{path_part(model)}/{action}",
            body,
            {"Content-Type": "application/json", "Accept": wanted},
            wanted,
        )
        return _ConverseReply(answer, ChatWriter(request, model), stream=request.stream)

    def _with_options(self, body: dict[str, Any]) -> dict[str, Any]:
        options = self._options
        if options.additional_fields:
            own = body.get("additionalModelRequestFields", {})
            body["additionalModelRequestFields"] = options.additional_fields | own
        if options.guardrail:
            body["guardrailConfig"] = {
                "guardrailIdentifier": options.guardrail,
                "guardrailVersion": options.guardrail_version,
            }
        if options.latency:
            body["performanceConfig"] = {"latency": options.latency}
        if options.service_tier:
            body.setdefault("serviceTier", {"type": options.service_tier})
        return body

    async def healthy(self) -> bool:
        """Whether the service answers within a second."""
        return await self._service.answers()

    async def close(self) -> None:
        """Close the pool."""
        await self._service.close()


class _ConverseReply:
    def __init__(self, answer: Answer, writer: ChatWriter, *, stream: bool) -> None:
        self.status = answer.status
        self.content_type = "text/event-stream" if stream else "application/json"
        self._answer = answer
        self._writer = writer
        self._stream = stream

    async def chunks(self) -> AsyncIterator[bytes]:
        """Chat events, or the completion once."""
        if not self._stream:
            body = self._answer.without_secrets(await self._answer.whole())
            yield whole_answer(body, self._writer)
            return
        stream = ConverseStream(self._writer)
        async for message in stream_messages(self._answer):
            if message.failed:
                raise stream_exception(self._answer.backend, message.kind, message.payload)
            if events := stream.event(message.kind, message.payload):
                yield events
        if last := stream.end():
            yield last

    async def close(self) -> None:
        """Free the connection."""
        await self._answer.close()
