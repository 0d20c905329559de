"""Any server that speaks the OpenAI API: our engine, vLLM, SGLang, llama.cpp, a gateway, OpenAI.

See `docs/reference/backends.md` for the options.
"""

import msgspec

from fungible.backends.base import Capabilities, Reply
from fungible.backends.http_pool import HTTPOptions, HTTPPool, read_options, secret_of
from fungible.backends.sse_reply import PassedReply
from fungible.config import BackendSettings
from fungible.contract.inference import Endpoint, InferenceRequest

_CHAT: frozenset[Endpoint] = frozenset({"chat/completions"})


class OpenAIHTTPOptions(HTTPOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of kind `openai_http`.

    Attributes:
        endpoints: What the server speaks beside `chat/completions`.
    """

    endpoints: frozenset[Endpoint] = frozenset({"completions", "embeddings"})


class OpenAIHTTPBackend:
    """One base URL, one connection pool."""

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        self._options = read_options(name, settings, OpenAIHTTPOptions)
        self.capabilities = Capabilities(endpoints=self._options.endpoints | _CHAT)
        self._root = settings.url.rstrip("/")
        self._pool = HTTPPool(name, self._options)
        self._headers: dict[str, str] = {}

    async def start(self) -> None:
        """Open the pool; the key is read from the environment now."""
        self._headers = {"Content-Type": "application/json"}
        if secret := secret_of(self.name, self.settings):
            self._headers["Authorization"] = f"Bearer {secret}"
        await self._pool.start()

    async def send(self, request: InferenceRequest) -> Reply:
        """POST the body, with the upstream's own model name in it."""
        body = request.body
        if self.settings.model:
            body = body | {"model": self.settings.model}
        answer = await self._pool.post(
            self._url(request.endpoint),
            msgspec.json.encode(body),
            # An engine's step log names its work by it: one attempt, not the retries beside it.
            self._headers | {"X-Request-Id": request.attempt_id or request.request_id},
            "text/event-stream" if request.stream else "application/json",
        )
        return PassedReply(answer, stream=request.stream)

    def _url(self, endpoint: Endpoint) -> str:
        # vLLM and our engine have it beside `/v1`, not under it.
        root = self._root.removesuffix("/v1") if endpoint == "tokenize" else self._root
        return f"{root}/{endpoint}"

    async def healthy(self) -> bool:
        """Whether `GET /models` answers within a second."""
        return await self._pool.answers(f"{self._root}/models", self._headers)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()
