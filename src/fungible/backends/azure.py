"""Azure OpenAI and Azure AI Foundry: how Microsoft's Maia is reached.

Both of its paths (Azure OpenAI REST API reference): `/openai/v1/…`, where the model is a
field of the body, and the older `/openai/deployments/NAME/…?api-version=…`. The wire is
OpenAI's own, so answers pass through. See `docs/reference/backends.md` for the options.
"""

from collections.abc import Callable
from typing import Literal
from urllib.parse import quote

import msgspec

from fungible.backends.base import Capabilities, Reply
from fungible.backends.http_pool import HTTPOptions, HTTPPool, read_options, secret_of
from fungible.backends.sse_reply import PassedReply
from fungible.backends.tokens import Token, TokenSource
from fungible.config import BackendSettings
from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.errors import ConfigError, MissingExtraError, UpstreamError

_COMMON: frozenset[Endpoint] = frozenset({"chat/completions", "completions", "embeddings"})
_V1: frozenset[Endpoint] = _COMMON | {"responses"}


class AzureOptions(HTTPOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of kind `azure`.

    Attributes:
        api: `v1`, or `deployments` for the older path.
        api_version: Its query parameter; `deployments` cannot go without, `v1` can.
        scope: Whom an Entra ID token is for.
        client_id: Of a user-assigned managed identity; empty for whatever is at hand.
        endpoints: What the deployment speaks, where that is less than the path offers.
    """

    api: Literal["v1", "deployments"] = "v1"
    api_version: str = ""
    scope: str = "https://cognitiveservices.azure.com/.default"
    client_id: str = ""
    endpoints: frozenset[Endpoint] = _V1


class AzureBackend:
    """One resource and, through `model`, one deployment of it."""

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        self._options = read_options(name, settings, AzureOptions)
        if not settings.url.startswith(("https://", "http://")):
            raise ConfigError(
                f"backend.{name}.url must be the resource's address",
                hint="for example https://RESOURCE.openai.azure.com",
            )
        older = self._options.api == "deployments"
        if older and not self._options.api_version:
            raise ConfigError(
                f'backend.{name}.options.api_version is needed with api = "deployments"',
                hint='api_version = "2024-10-21", or api = "v1"',
            )
        spoken = self._options.endpoints & (_COMMON if older else _V1)
        self.capabilities = Capabilities(endpoints=spoken)
        self._root = settings.url.rstrip("/").removesuffix("/v1").removesuffix("/openai")
        self._pool = HTTPPool(name, self._options)
        self._key = ""
        self._tokens: TokenSource | None = None

    async def start(self) -> None:
        """Open the pool. With `api_key_env` the key is read now; otherwise Entra ID is asked."""
        self._key = secret_of(self.name, self.settings)
        if not self._key:
            self._tokens = TokenSource(
                self.name,
                _entra_tokens(self.name, self._options),
                hint="sign in with `az login`, give the machine an identity, or set api_key_env",
            )
        await self._pool.start()

    async def send(self, request: InferenceRequest) -> Reply:
        """POST the body as it is, with the deployment's name in it or in the path."""
        deployment = self.settings.model or request.model
        body = msgspec.json.encode(request.body | {"model": deployment})
        headers = await self._authorized()
        headers["Content-Type"] = "application/json"
        headers["X-Ms-Client-Request-Id"] = request.request_id
        url = self._url(request.endpoint, deployment)
        wanted = "text/event-stream" if request.stream else "application/json"
        answer = await self._pool.post(url, body, headers, wanted)
        return PassedReply(answer, stream=request.stream)

    def _url(self, endpoint: str, deployment: str) -> str:
        if self._options.api == "v1":
            url = f"{self._root}/openai/v1/{endpoint}"
        else:
            url = f"{self._root}/openai/deployments/{quote(deployment, safe='')}/{endpoint}"
        version = self._options.api_version
        return f"{url}?api-version={quote(version, safe='')}" if version else url

    async def _authorized(self) -> dict[str, str]:
        if self._tokens is not None:
            return {"Authorization": f"Bearer {await self._tokens.token()}"}
        return {"api-key": self._key}

    async def healthy(self) -> bool:
        """Whether the resource lists its models within a second."""
        try:
            headers = await self._authorized()
        except UpstreamError:
            return False
        return await self._pool.answers(f"{self._root}/openai/v1/models", headers)

    async def close(self) -> None:
        """Close the pool."""
        if self._tokens is not None:
            await self._tokens.close()
        await self._pool.close()


def _entra_tokens(name: str, options: AzureOptions) -> Callable[[], Token]:
    """Entra ID through Microsoft's own library: environment, workload, machine, `az login`."""
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise MissingExtraError(
            f"backend.{name}: Entra ID needs azure-identity",
            hint='pip install "fungible[azure]", or set api_key_env',
        ) from error
    chosen = {"managed_identity_client_id": options.client_id} if options.client_id else {}
    credential = DefaultAzureCredential(**chosen)

    def fetch() -> Token:
        token = credential.get_token(options.scope)
        return Token(value=token.token, expires=float(token.expires_on))

    return fetch
