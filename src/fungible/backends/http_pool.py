"""HTTP for the vendors' adapters: one connection pool a backend, answers read as they come.

This is the only place where they meet an HTTP library. Errors leave it as `UpstreamError`s,
and no header that authorizes a request leaves it in one.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

import msgspec

from fungible.backends.upstream_errors import error_for_status
from fungible.config import BackendSettings
from fungible.errors import (
    ConfigError,
    ConnectTimeoutError,
    IdleTimeoutError,
    StreamBrokenError,
    UnavailableError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamLostError,
)
from fungible.http.client import Answer as HTTPAnswer
from fungible.http.client import Client, header_lines
from fungible.http.errors import ConnectionBrokenError, MalformedAnswerError, NotConnectedError

_ERROR_BYTES = 4096
_AFTER_CONNECTING = (
    ConnectionBrokenError,
    ConnectionResetError,
    BrokenPipeError,
    MalformedAnswerError,
)
MOST_BODY_BYTES = 256 << 20
_SECRET_HEADERS = frozenset(
    {"authorization", "api-key", "x-api-key", "x-goog-api-key", "x-amz-security-token"}
)


class HTTPOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Timeouts in seconds; every adapter's own options begin with these."""

    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 300.0


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
        self._client: Client | None = None

    async def start(self) -> None:
        """Open the pool."""
        self._client = Client(
            connect_timeout_s=self._options.connect_timeout_s,
            idle_timeout_s=self._options.idle_timeout_s,
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
        if self._client is None:
            raise UnavailableError(f"backend {self.backend} was not started")
        try:
            response = await self._client.post(url, header_lines(headers), body)
        except OSError as error:  # a time-out is one
            raise self.lost(error) from error
        answer = Answer(self, response, secrets_in(headers))
        try:
            if not 200 <= answer.status < 300:
                raise await answer.refusal()
            if answer.content_type != wanted:
                # As it was sent: in lower case a secret would go unnoticed.
                sent = answer.without_secrets(answer.headers.get("content-type", "").encode())
                kind = sent.partition(b";")[0].decode()
                strange = UpstreamConnectError(
                    f"{self.backend} answered {kind or 'without a type'}, not {wanted}",
                    hint=f"check backend.{self.backend}.url: does that server speak this API?",
                )
                strange.upstream_status = answer.status
                raise strange
        except BaseException:
            response.close()
            raise
        return answer

    async def answers(self, url: str, headers: Mapping[str, str]) -> bool:
        """Whether a GET is answered within a second by anything but a server error."""
        if self._client is None:
            return False
        try:
            async with asyncio.timeout(1):
                response = await self._client.get(url, header_lines(headers))
        except OSError:
            return False
        response.close()
        return response.status < 500

    async def close(self) -> None:
        """Close the pool."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def lost(self, error: Exception) -> UpstreamError:
        """What a failure of the connection means."""
        if isinstance(error, TimeoutError):
            if isinstance(error, NotConnectedError):
                return ConnectTimeoutError(f"{self.backend} cannot be reached: {error}")
            return IdleTimeoutError(f"{self.backend} did not answer in time")
        reason = str(error) or type(error).__name__
        if isinstance(error, _AFTER_CONNECTING):
            return UpstreamLostError(f"{self.backend} was lost before it answered: {reason}")
        return UpstreamConnectError(f"{self.backend} cannot be reached: {reason}")


class Answer:
    """One response. Whoever got it must `close` it; that cancels what was not read.

    Attributes:
        headers: By lower-case name.
        secrets: What it must not say: everything that authorized its request.
    """

    def __init__(self, pool: HTTPPool, response: HTTPAnswer, secrets: tuple[bytes, ...]) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.secrets = secrets
        self.backend = pool.backend
        self._pool = pool
        self._response = response

    async def whole(self) -> bytes:
        """The body.

        Raises:
            UpstreamError: The connection failed, it is too long, or it is not a JSON object.
        """
        try:
            body = await self._response.read(MOST_BODY_BYTES)
        except OSError as error:
            raise self._pool.lost(error) from error
        if len(body) > MOST_BODY_BYTES:
            raise UpstreamConnectError(
                f"{self.backend} sent a body of more than {MOST_BODY_BYTES >> 20} MiB"
            )
        try:
            _is_object(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamConnectError(f"{self.backend} sent a body that is not JSON") from error
        return body

    async def piece(self) -> bytes:
        """What has arrived of the body, cut anywhere; empty at its end.

        Raises:
            StreamBrokenError: The connection broke.
            IdleTimeoutError: It fell silent.
        """
        try:
            return await self._response.piece()
        except OSError as error:
            raise self._cut(error) from error

    async def push(self, take: Callable[[bytes], None]) -> None:
        """The rest of the body, pushed as it arrives; same errors as `piece`, and those of `take`.

        It can be held up by `pause` until `resume`.
        """
        try:
            await self._response.push(take)
        except OSError as error:
            raise self._cut(error) from error

    def pause(self) -> None:
        """Take no more from the connection for now."""
        self._response.pause()

    def resume(self) -> None:
        """Take on."""
        self._response.resume()

    def _cut(self, error: OSError) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return IdleTimeoutError(f"{self.backend} fell silent")
        return StreamBrokenError(f"{self.backend} cut the stream: {error}")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives, cut anywhere; same errors as `piece`."""
        while piece := await self.piece():
            yield piece

    async def refusal(self) -> UpstreamError:
        """What a status other than 2xx means, in the upstream's own words."""
        try:
            said = (await self._response.read(_ERROR_BYTES))[:_ERROR_BYTES]
        except OSError:
            said = b""
        wait = self.headers.get("retry-after", "").strip()
        error = error_for_status(self.backend, self.status, self.without_secrets(said), wait)
        # Once more: what was escaped in JSON is not any longer.
        error.message = self.without_secrets(error.message.encode()).decode()
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
        self._response.close()

    async def finish(self) -> None:
        """`close`, where all that matters was read; the end of the body may still come."""
        self._response.finish()


# Objects are not built, only walked through.
_is_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def secrets_in(headers: Mapping[str, str]) -> tuple[bytes, ...]:
    """The values that authorize a request, without the word in front of them.

    Those with a slash also as the JSON writers of some servers put them.
    """
    values = [
        value.rpartition(" ")[2].encode()
        for name, value in headers.items()
        if name.lower() in _SECRET_HEADERS and value
    ]
    return (*values, *(value.replace(b"/", b"\\/") for value in values if b"/" in value))
