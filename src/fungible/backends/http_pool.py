"""HTTP for the vendors' adapters: one connection pool a backend, answers read as they come.

This is the only place where they meet an HTTP library. Errors leave it as `UpstreamError`s,
and no header that authorizes a request leaves it in one.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

import aiohttp
import msgspec
from yarl import URL

from fungible.backends.upstream_errors import error_for_status
from fungible.config import BackendSettings
from fungible.errors import (
    ConfigError,
    StreamBrokenError,
    UnavailableError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeoutError,
)

_ERROR_BYTES = 4096
_SECRET_HEADERS = frozenset(
    {"authorization", "api-key", "x-api-key", "x-goog-api-key", "x-amz-security-token"}
)


class HTTPOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Timeouts in seconds; every adapter's own options begin with these."""

    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 60.0


_Options = TypeVar("_Options", bound=HTTPOptions)


def read_options(name: str, settings: BackendSettings, kind: type[_Options]) -> _Options:
    """`[backend.NAME.options]` as the adapter's own record.

    Raises:
        ConfigError: An option is unknown or has the wrong type; names it.
    """
    try:
        return msgspec.convert(settings.options, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"backend.{name}.options: {error}", hint="see docs/reference/backends.md"
        ) from error


def secret_of(name: str, settings: BackendSettings) -> str:
    """The key that `api_key_env` names; empty where it names none.

    Raises:
        ConfigError: The variable is not set.
    """
    variable = settings.api_key_env
    secret = os.environ.get(variable, "") if variable else ""
    if variable and not secret:
        raise ConfigError(
            f"backend.{name}.api_key_env: {variable} is not set", hint=f"export {variable}=…"
        )
    return secret


class HTTPPool:
    """POSTs of one backend. `start` before the first, `close` after the last."""

    def __init__(self, backend: str, options: HTTPOptions) -> None:
        self.backend = backend
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool."""
        self._session = aiohttp.ClientSession(
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

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], wanted: str
    ) -> "Answer":
        """Send, and wait for a head with a 2xx status.

        Args:
            url: Encoded already: signatures are over its exact bytes.
            body: As signed.
            headers: Those that authorize included.
            wanted: The content type that a good answer has.

        Raises:
            UpstreamError: What went wrong; carries the upstream's own words without our secrets.
        """
        session = self._opened()
        try:
            response = await session.post(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.lost(error) from error
        answer = Answer(self, response, secrets_in(headers))
        try:
            if not 200 <= answer.status < 300:
                raise await answer.refusal()
            if answer.content_type != wanted:
                raise UpstreamConnectError(
                    f"{self.backend} answered {answer.content_type}, not {wanted}",
                    hint=f"check backend.{self.backend}.url: does that server speak this API?",
                )
        except BaseException:
            response.close()
            raise
        return answer

    async def answers(self, url: str, headers: Mapping[str, str]) -> bool:
        """Whether a GET is answered within a second by anything but a server error."""
        if self._session is None:
            return False
        try:
            async with self._session.get(
                URL(url, encoded=True),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=1),
                allow_redirects=False,
            ) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def close(self) -> None:
        """Close the pool."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise UnavailableError(f"backend {self.backend} was not started")
        return self._session

    def lost(self, error: Exception) -> UpstreamError:
        """What a failure of the connection means."""
        if isinstance(error, TimeoutError):
            return UpstreamTimeoutError(f"{self.backend} did not answer in time")
        reason = str(error) or type(error).__name__
        return UpstreamConnectError(f"{self.backend} cannot be reached: {reason}")


class Answer:
    """One response. Whoever got it must `close` it; that cancels what was not read.

    Attributes:
        headers: By any case.
        secrets: What it must not say: everything that authorized its request.
    """

    def __init__(
        self, pool: HTTPPool, response: aiohttp.ClientResponse, secrets: tuple[bytes, ...]
    ) -> None:
        self.status = response.status
        self.content_type = response.content_type
        self.headers: Mapping[str, str] = response.headers
        self.secrets = secrets
        self.backend = pool.backend
        self._pool = pool
        self._response = response

    async def whole(self) -> bytes:
        """The body.

        Raises:
            UpstreamError: The connection failed, or it is not a JSON object.
        """
        try:
            body = await self._response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._pool.lost(error) from error
        try:
            msgspec.json.decode(body, type=dict)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamConnectError(f"{self.backend} sent a body that is not JSON") from error
        return body

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives, cut anywhere.

        Raises:
            StreamBrokenError: The connection broke.
            UpstreamTimeoutError: It fell silent.
        """
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise UpstreamTimeoutError(f"{self.backend} fell silent") from error
            raise StreamBrokenError(f"{self.backend} cut the stream: {error}") from error

    async def refusal(self) -> UpstreamError:
        """What a status other than 2xx means, in the upstream's own words."""
        try:
            said = await self._response.content.read(_ERROR_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError):
            said = b""
        wait = self.headers.get("Retry-After", "").strip()
        error = error_for_status(self.backend, self.status, self.without_secrets(said), wait)
        if (exact := self.headers.get("retry-after-ms", "")).isdigit():
            error.retry_after_s = int(exact) / 1000
        return error

    def without_secrets(self, said: bytes) -> bytes:
        """Some servers quote the key that they refuse."""
        for secret in self.secrets:
            if secret in said:
                said = said.replace(secret, b"[key]")
        return said

    async def close(self) -> None:
        """Give the connection back if the body was read, drop it otherwise."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        await asyncio.sleep(0)


def secrets_in(headers: Mapping[str, str]) -> tuple[bytes, ...]:
    """The values that authorize a request, without the word in front of them."""
    return tuple(
        value.rpartition(" ")[2].encode()
        for name, value in headers.items()
        if name.lower() in _SECRET_HEADERS and value
    )
