"""Any server that speaks the OpenAI API: our engine, vLLM, SGLang, llama.cpp, a gateway, OpenAI.

Options: `connect_timeout_s` (5), `idle_timeout_s` (60, silence between two chunks), `endpoints`
(what it speaks itself, beside `chat/completions`).
"""

import asyncio
import os
from collections.abc import AsyncIterator

import aiohttp
import msgspec

from fungible.backends.base import Capabilities, Reply
from fungible.backends.upstream_errors import error_for_status
from fungible.config import BackendSettings
from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.contract.sse import FrameSplitter, frame_data
from fungible.errors import (
    ConfigError,
    StreamBrokenError,
    UnavailableError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeoutError,
)

_ERROR_BYTES = 4096
_FRAME_BYTES = 8 << 20


class HTTPOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Timeouts in seconds."""

    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 60.0
    endpoints: frozenset[Endpoint] = frozenset({"completions", "embeddings"})


class OpenAIHTTPBackend:
    """One base URL, one connection pool."""

    def __init__(self, name: str, settings: BackendSettings) -> None:
        self.name = name
        self.settings = settings
        try:
            self._options = msgspec.convert(settings.options, HTTPOptions)
        except msgspec.ValidationError as error:
            raise ConfigError(f"backend.{name}.options: {error}") from error
        chat: frozenset[Endpoint] = frozenset({"chat/completions"})
        self.capabilities = Capabilities(endpoints=self._options.endpoints | chat)
        self._session: aiohttp.ClientSession | None = None
        self._secret = b""

    async def start(self) -> None:
        """Open the pool; the key is read from the environment now."""
        headers = {"Content-Type": "application/json"}
        if variable := self.settings.api_key_env:
            secret = os.environ.get(variable)
            if not secret:
                raise ConfigError(
                    f"backend.{self.name}.api_key_env: {variable} is not set",
                    hint=f"export {variable}=…",
                )
            headers["Authorization"] = f"Bearer {secret}"
            self._secret = secret.encode()
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._options.connect_timeout_s,
                sock_read=self._options.idle_timeout_s,
            ),
            # One user's cookies must not reach the next one's request.
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=1 << 18,
        )

    async def send(self, request: InferenceRequest) -> Reply:
        """POST the body, with the upstream's own model name in it."""
        if self._session is None:
            raise UnavailableError(f"backend {self.name} was not started")
        body = request.body
        if self.settings.model:
            body = body | {"model": self.settings.model}
        url = f"{self.settings.url.rstrip('/')}/{request.endpoint}"
        headers = {"X-Request-Id": request.request_id}
        try:
            response = await self._session.post(
                url, data=msgspec.json.encode(body), headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.lost(error) from error
        try:
            if not 200 <= response.status < 300:
                said = await _read_some(response, _ERROR_BYTES)
                raise self._refused(response, said)
            wanted = "text/event-stream" if request.stream else "application/json"
            if response.content_type != wanted:
                raise UpstreamConnectError(
                    f"{self.name} answered {response.content_type}, not {wanted}",
                    hint=f"is {self.settings.url} an OpenAI-compatible server?",
                )
        except BaseException:
            response.close()
            raise
        return _HTTPReply(self, response, stream=request.stream)

    async def healthy(self) -> bool:
        """Whether `GET /models` answers within a second."""
        if self._session is None:
            return False
        try:
            timeout = aiohttp.ClientTimeout(total=1)
            url = f"{self.settings.url.rstrip('/')}/models"
            async with self._session.get(url, timeout=timeout) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def lost(self, error: Exception) -> UpstreamError:
        """What a failure of the connection means."""
        if isinstance(error, TimeoutError):
            return UpstreamTimeoutError(f"{self.name} did not answer in time")
        reason = str(error) or type(error).__name__
        return UpstreamConnectError(f"{self.name} cannot be reached: {reason}")

    def _refused(self, response: aiohttp.ClientResponse, said: bytes) -> UpstreamError:
        if self._secret:  # some servers quote the key that they refuse
            said = said.replace(self._secret, b"[key]")
        wait = response.headers.get("Retry-After", "").strip()
        return error_for_status(self.name, response.status, said, wait)


class _HTTPReply:
    """The body of one answer, as whole events or whole JSON."""

    def __init__(
        self, backend: OpenAIHTTPBackend, response: aiohttp.ClientResponse, *, stream: bool
    ) -> None:
        self.status = response.status
        self.content_type = response.content_type
        self._backend = backend
        self._response = response
        self._stream = stream

    async def chunks(self) -> AsyncIterator[bytes]:
        """Frames up to and including `[DONE]`, or the body once."""
        if not self._stream:
            yield await self._whole()
            return
        splitter = FrameSplitter()
        try:
            async for chunk in self._response.content.iter_any():
                if frames := splitter.feed(chunk):
                    yield b"".join(frames)
                if len(splitter.rest) > _FRAME_BYTES:
                    raise StreamBrokenError(f"{self._backend.name} sent an event without an end")
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise UpstreamTimeoutError(f"{self._backend.name} fell silent") from error
            raise StreamBrokenError(f"{self._backend.name} cut the stream: {error}") from error
        # Some servers leave out the blank line after the last event.
        if frame_data(splitter.rest) is not None:
            yield splitter.rest + b"\n\n"

    async def _whole(self) -> bytes:
        try:
            body = await self._response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._backend.lost(error) from error
        try:
            msgspec.json.decode(body, type=dict)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamConnectError(
                f"{self._backend.name} sent a body that is not JSON"
            ) from error
        return body

    async def close(self) -> None:
        """Give the connection back if the body was read, drop it otherwise."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        await asyncio.sleep(0)


async def _read_some(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The start of an error body; an upstream that cannot even finish that says nothing."""
    try:
        return await response.content.read(limit)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return b""
