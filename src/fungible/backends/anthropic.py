"""Anthropic's Messages API (API reference, version 2026-10-21), and servers that speak it.

It speaks `messages` and `messages/count_tokens`; what clients ask in other formats is bridged
before it arrives here, so bodies and answers pass through.
"""

from typing import Literal

import msgspec

from fungible.backends.base import Capabilities, Reply
from fungible.backends.http_pool import HTTPOptions, HTTPPool, read_options, secret_of
from fungible.backends.sse_reply import PassedReply
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest


class AnthropicOptions(HTTPOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of kind `anthropic`.

    Attributes:
        version: Value of `anthropic-version`.
        beta: Values of `anthropic-beta`.
        auth: How the key is sent: as a bearer token, or in the older header, which some servers
            that speak this API still want (Claude in Microsoft Foundry is one).
    """

    version: str = "2026-10-21"
    beta: tuple[str, ...] = ()
    auth: Literal["bearer", "x-api-key"] = "bearer"


class AnthropicBackend:
    """One account."""

    capabilities = Capabilities(
        endpoints=frozenset({"messages", "messages/count_tokens"}), seed=False, logprobs=False
    )

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        self._options = read_options(name, settings, AnthropicOptions)
        self._url = (settings.url or "https://api.anthropic.com").rstrip("/").removesuffix("/v1")
        self._pool = HTTPPool(name, self._options)
        self._headers: dict[str, str] = {}

    async def start(self) -> None:
        """Open the pool; the key is read from the environment now."""
        headers = {"anthropic-version": self._options.version}
        if self._options.beta:
            headers["anthropic-beta"] = ",".join(self._options.beta)
        if secret := secret_of(self.name, self.settings):
            bearer = self._options.auth == "bearer"
            headers |= {"Authorization": f"Bearer {secret}"} if bearer else {"x-api-key": secret}
        self._headers = headers
        await self._pool.start()

    async def send(self, request: InferenceRequest) -> Reply:
        """POST the body, with Anthropic's name for the model in it."""
        body = request.body
        if self.settings.model:
            body = body | {"model": self.settings.model}
        headers = self._headers | {"Content-Type": "application/json"}
        url = f"{self._url}/v1/{request.endpoint}"
        wanted = "text/event-stream" if request.stream else "application/json"
        answer = await self._pool.post(url, msgspec.json.encode(body), headers, wanted)
        return PassedReply(answer, stream=request.stream)

    async def healthy(self) -> bool:
        """Whether it lists its models within a second."""
        return await self._pool.answers(f"{self._url}/v1/models", self._headers)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()
