"""Google's Vertex AI: Gemini, and one's own models on TPUs and GPUs behind its endpoints.

Two wires: the OpenAI-compatible one passes through; `generateContent` is translated
(`gemini_request`, `gemini_answer`). See `docs/reference/backends.md` for the options.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Literal
from urllib.parse import quote

import msgspec

from fungible.backends.base import Capabilities, Reply
from fungible.backends.gemini_answer import GeminiReader, GeminiStream, whole_answer
from fungible.backends.gemini_request import IGNORED, Thinking, to_gemini
from fungible.backends.http_pool import Answer, HTTPOptions, HTTPPool, read_options, secret_of
from fungible.backends.sse_reply import PassedReply, WholeEvents
from fungible.backends.tokens import Token, TokenSource
from fungible.config import BackendSettings
from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import frame_data, split_frames
from fungible.errors import ConfigError, MissingExtraError, UpstreamError
from fungible.wire.chat_writing import ChatWriter

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_HINT = "run `gcloud auth application-default login`, or give the machine a service account"


class VertexOptions(HTTPOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of kind `vertex`.

    Attributes:
        api: `openai`, or `gemini` for generateContent.
        project: Empty for the one that the credentials belong to.
        endpoint: Of a deployed model; empty for Google's own models.
        thinking: How Gemini is told `reasoning_effort`: `level` (3), `budget` (2.5).
        safety: `safetySettings` of every request to Gemini.
    """

    api: Literal["openai", "gemini"] = "openai"
    project: str = ""
    endpoint: str = ""
    thinking: Thinking = "level"
    safety: list[dict[str, str]] = msgspec.field(default_factory=list)


class VertexBackend:
    """One project and location (the backend's `region`)."""

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        self._options = options = read_options(name, settings, VertexOptions)
        gemini = options.api == "gemini"
        self.capabilities = Capabilities(ignored_fields=IGNORED if gemini else frozenset())
        self._pool = HTTPPool(name, options)
        self._place = settings.region or "global"
        usual = "" if self._place == "global" else f"{self._place}-"
        self._root = (settings.url or f"https://{usual}aiplatform.googleapis.com").rstrip("/")
        self._project = options.project
        self._key = ""
        self._tokens: TokenSource | None = None
        self._billed = ""

    async def start(self) -> None:
        """Find credentials, off the loop, and open the pool.

        Raises:
            ConfigError: There are none, or no project.
            MissingExtraError: google-auth is not installed.
        """
        self._key = secret_of(self.name, self.settings)
        if not self._key:
            fetch = await asyncio.to_thread(self._look_up)
            self._tokens = TokenSource(self.name, fetch, hint=_HINT)
        elif self._options.api == "openai" and not self._project:
            raise ConfigError(
                f"backend.{self.name}.options.project is not set",
                hint='with an API key alone only api = "gemini" works',
            )
        await self._pool.start()

    def _look_up(self) -> Callable[[], Token]:
        """Google's application default credentials."""
        try:
            import google.auth  # noqa: PLC0415  # an extra
            from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415
            from google.auth.transport.requests import Request  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError(
                f"backend.{self.name}: Vertex AI needs google-auth",
                hint='pip install "fungible[vertex]", or set api_key_env',
            ) from error
        try:
            credentials, project = google.auth.default(scopes=[_SCOPE])
        except DefaultCredentialsError as error:
            raise ConfigError(
                f"backend.{self.name}: no Google credentials were found", hint=_HINT
            ) from error
        self._project = self._project or project or ""
        if not self._project:
            raise ConfigError(f"backend.{self.name}.options.project is not set")
        self._billed = getattr(credentials, "quota_project_id", None) or ""

        def fetch() -> Token:
            credentials.refresh(Request())  # type: ignore[no-untyped-call]
            expiry: dt.datetime | None = credentials.expiry
            until = expiry.replace(tzinfo=dt.UTC).timestamp() if expiry else float("inf")
            return Token(value=str(credentials.token), expires=until)

        return fetch

    async def send(self, request: InferenceRequest) -> Reply:
        """POST the body as it is, or translated for Gemini."""
        model = self.settings.model or request.model
        wanted = "text/event-stream" if request.stream else "application/json"
        headers = await self._authorized() | {"Content-Type": "application/json"}
        if self._options.api == "openai":
            body = msgspec.json.encode(request.body | {"model": model})
            url = f"{self._home()}/endpoints/{self._options.endpoint or 'openapi'}"
            answer = await self._pool.post(f"{url}/{request.endpoint}", body, headers, wanted)
            return PassedReply(answer, stream=request.stream)
        asked = to_gemini(request.body, self._options.thinking)
        if self._options.safety:
            asked["safetySettings"] = self._options.safety
        url = self._gemini_url(model, stream=request.stream)
        answer = await self._pool.post(url, msgspec.json.encode(asked), headers, wanted)
        reader = GeminiReader(self.name, request.request_id)
        return _GeminiReply(answer, reader, ChatWriter(request, model), stream=request.stream)

    def _home(self) -> str:
        if not self._project:  # an API key of Vertex AI in express mode knows its own
            return f"{self._root}/v1"
        place = quote(self._place, safe="")
        return f"{self._root}/v1/projects/{quote(self._project, safe='')}/locations/{place}"

    def _gemini_url(self, model: str, *, stream: bool) -> str:
        what = f"publishers/google/models/{quote(model, safe='')}"
        if self._options.endpoint:
            what = f"endpoints/{self._options.endpoint}"
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"{self._home()}/{what}:{method}"

    async def _authorized(self) -> dict[str, str]:
        if self._tokens is None:
            return {"x-goog-api-key": self._key}
        headers = {"Authorization": f"Bearer {await self._tokens.token()}"}
        return headers | ({"x-goog-user-project": self._billed} if self._billed else {})

    async def healthy(self) -> bool:
        """Whether there are credentials, and the service answers within a second."""
        try:
            return await self._pool.answers(f"{self._root}/", await self._authorized())
        except UpstreamError:
            return False

    async def close(self) -> None:
        """Close the pool."""
        if self._tokens is not None:
            await self._tokens.close()
        await self._pool.close()


class _GeminiReply:
    def __init__(
        self, answer: Answer, reader: GeminiReader, writer: ChatWriter, *, stream: bool
    ) -> None:
        self.status = answer.status
        self.content_type = answer.content_type
        self._answer = answer
        self._reader = reader
        self._writer = writer
        self._stream = stream

    async def chunks(self) -> AsyncIterator[bytes]:
        """Chat events, or the completion once."""
        answer = self._answer
        if not self._stream:
            body = answer.without_secrets(await answer.whole())
            yield whole_answer(body, self._reader, self._writer)
            return
        stream = GeminiStream(self._reader, self._writer)
        async for events in WholeEvents(answer.piece, answer):
            data = [frame_data(frame) for frame in split_frames(events)]
            if shown := b"".join(stream.response(one) for one in data if one is not None):
                yield shown
        if last := stream.end():
            yield last

    async def close(self) -> None:
        """Free the connection."""
        await self._answer.close()
