"""SageMaker endpoints whose container speaks the OpenAI API, such as vLLM or LMI.

How one's own models on Trainium and Inferentia are reached. Bodies pass through; a stream
arrives as payload parts of a binary event stream (service model `sagemaker-runtime`).
"""

from collections.abc import AsyncIterator

import msgspec

from fungible.backends.aws import (
    EVENT_STREAM,
    AWSOptions,
    AWSService,
    path_part,
    stream_messages,
)
from fungible.backends.base import Capabilities, Reply
from fungible.backends.converse_answer import stream_exception
from fungible.backends.http_pool import Answer, read_options
from fungible.backends.sse_reply import PassedReply, WholeEvents
from fungible.config import BackendSettings
from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.errors import ConfigError


class SageMakerOptions(AWSOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of kind `sagemaker`.

    Attributes:
        endpoint: Name of the SageMaker endpoint.
        component: Of its inference components.
        variant: Of its production variants.
        endpoints: What the container tells apart by the body alone.
    """

    endpoint: str
    component: str = ""
    variant: str = ""
    endpoints: frozenset[Endpoint] = frozenset({"chat/completions", "completions"})


class SageMakerBackend:
    """One endpoint."""

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        self._options = read_options(name, settings, SageMakerOptions)
        self.capabilities = Capabilities(endpoints=self._options.endpoints)
        service = ("sagemaker-runtime", "sagemaker")
        self._service = AWSService(name, settings, self._options, service)
        if settings.api_key_env:
            raise ConfigError(
                f"backend.{name}.api_key_env: SageMaker takes signed requests only",
                hint="leave it out and set up AWS credentials",
            )

    async def start(self) -> None:
        """Find credentials and open the pool."""
        await self._service.start()

    async def send(self, request: InferenceRequest) -> Reply:
        """Sign and POST the body, with the container's name for the model in it."""
        body = request.body
        if self.settings.model:
            body = body | {"model": self.settings.model}
        action = "invocations-response-stream" if request.stream else "invocations"
        wanted = EVENT_STREAM if request.stream else "application/json"
        answer = await self._service.post(
            f"/endpoints/{path_part(self._options.endpoint)}/{action}",
            msgspec.json.encode(body),
            self._headers(stream=request.stream),
            wanted,
        )
        return _PartsReply(answer) if request.stream else PassedReply(answer, stream=False)

    def _headers(self, *, stream: bool) -> dict[str, str]:
        options = self._options
        accept = "X-Amzn-SageMaker-Accept" if stream else "Accept"
        headers = {
            "Content-Type": "application/json",
            accept: "text/event-stream" if stream else "application/json",
            "X-Amzn-SageMaker-Inference-Component": options.component,
            "X-Amzn-SageMaker-Target-Variant": options.variant,
        }
        return {name: value for name, value in headers.items() if value}

    async def healthy(self) -> bool:
        """Whether the service answers within a second; the endpoint itself is not asked."""
        return await self._service.answers()

    async def close(self) -> None:
        """Close the pool."""
        await self._service.close()


class _PartsReply:
    """A stream in payload parts that are cut anywhere."""

    content_type = "text/event-stream"

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self._answer = answer

    def chunks(self) -> AsyncIterator[bytes]:
        """Whole events."""
        messages = stream_messages(self._answer)

        async def part() -> bytes:
            async for message in messages:
                if message.failed:
                    raise stream_exception(self._answer.backend, message.kind, message.payload)
                if message.kind == "PayloadPart" and message.payload:
                    return message.payload
            return b""

        return WholeEvents(part, self._answer)

    async def close(self) -> None:
        """Free the connection."""
        await self._answer.close()
