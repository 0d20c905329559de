"""What AWS's services share: credentials, SigV4 signatures, addresses and the event stream.

botocore brings these four; its own HTTP client would block, so requests go through our pool.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

from fungible.backends.http_pool import Answer, HTTPOptions, HTTPPool, secret_of
from fungible.config import BackendSettings
from fungible.errors import (
    ConfigError,
    MissingExtraError,
    StreamBrokenError,
    UpstreamSetupError,
)

EVENT_STREAM = "application/vnd.amazon.eventstream"
_HINT = "check AWS_PROFILE, AWS_ACCESS_KEY_ID or the machine's role, and what the role may call"


class AWSOptions(HTTPOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options that every AWS kind has.

    Attributes:
        profile: Of `~/.aws/config`; empty for what the environment says.
    """

    profile: str = ""


class AWSService:
    """Signed POSTs to one service in one region.

    `region` of the backend counts first, then what the environment or the profile says. With
    `api_key_env` its bearer key authorizes and nothing is signed.
    """

    def __init__(
        self, name: str, settings: BackendSettings, options: AWSOptions, service: tuple[str, str]
    ) -> None:
        """`service` is its name in botocore and the one in signatures."""
        self.name = name
        self._settings = settings
        self._options = options
        self._client_name, self._signing_name = service
        self._pool = HTTPPool(name, options)
        self._root = settings.url.rstrip("/")
        self._region = settings.region
        self._key = ""
        self._credentials: Any = None

    async def start(self) -> None:
        """Find region, address and credentials, off the loop: a metadata server may be asked.

        Raises:
            ConfigError: There is no region, or there are no credentials.
            MissingExtraError: botocore is not installed.
        """
        self._key = secret_of(self.name, self._settings)
        await asyncio.to_thread(self._look_up)
        await self._pool.start()

    def _look_up(self) -> None:
        try:
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415  # an extra
            from botocore.session import Session  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError(
                f"backend.{self.name}: AWS needs botocore", hint='pip install "fungible[bedrock]"'
            ) from error
        try:
            session = Session(profile=self._options.profile or None)
            self._region = self._region or session.get_config_variable("region") or ""
            if not self._region:
                raise ConfigError(
                    f"backend.{self.name}.region is not set", hint='region = "us-east-1"'
                )
            if not self._root:
                self._root = self._usual_address(session)
            if not self._key:
                self._credentials = session.get_credentials()
        except BotoCoreError as error:
            raise ConfigError(f"backend.{self.name}: {error}", hint=_HINT) from error
        if not self._key and self._credentials is None:
            raise ConfigError(f"backend.{self.name}: no AWS credentials were found", hint=_HINT)

    def _usual_address(self, session: Any) -> str:  # noqa: ANN401  # botocore is untyped
        """As Amazon's own client finds it: partition, FIPS and `AWS_ENDPOINT_URL` included."""
        client = session.create_client(
            self._client_name,
            region_name=self._region,
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106  # nothing is sent
        )
        try:
            return str(client.meta.endpoint_url).rstrip("/")
        finally:
            client.close()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], wanted: str) -> Answer:
        """Sign and send; the same promises as `HTTPPool.post`."""
        url = f"{self._root}{path}"
        sent = dict(headers)
        if self._key:
            sent["Authorization"] = f"Bearer {self._key}"
        elif self._credentials is not None:
            sent = await self._signed(url, body, sent)
        try:
            return await self._pool.post(url, body, sent, wanted)
        except UpstreamSetupError as error:
            error.hint = _HINT
            raise

    async def _signed(self, url: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        from botocore.auth import SigV4Auth  # noqa: PLC0415  # an extra
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415

        request = AWSRequest(method="POST", url=url, data=body, headers=headers)
        SigV4Auth(await self._frozen(), self._signing_name, self._region).add_auth(request)
        return dict(request.headers.items())

    async def _frozen(self) -> Any:  # noqa: ANN401  # botocore is untyped
        """Credentials that are good now; those that expire may need a call, in a thread."""
        credentials = self._credentials
        expiring = getattr(credentials, "refresh_needed", None)
        if expiring is None or not expiring():
            return credentials.get_frozen_credentials()
        try:
            return await asyncio.to_thread(credentials.get_frozen_credentials)
        except Exception as error:  # every provider has errors of its own
            raise UpstreamSetupError(
                f"{self.name}: no AWS credentials: {type(error).__name__}", hint=_HINT
            ) from error

    async def answers(self) -> bool:
        """Whether anything but a server error comes back within a second."""
        return await self._pool.answers(f"{self._root}/", {})

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()


class StreamMessage:
    """One message of an event stream: its kind, what kind of message it is, and its payload."""

    def __init__(self, headers: Mapping[str, Any], payload: bytes) -> None:
        self.failed = headers.get(":message-type", "event") != "event"
        named = headers.get(":exception-type") or headers.get(":error-code")
        self.kind = str((named if self.failed else headers.get(":event-type")) or "")
        said = headers.get(":error-message")
        self.payload = payload or (str(said).encode() if said else b"")


async def stream_messages(answer: Answer) -> AsyncIterator[StreamMessage]:
    """The messages of a binary event stream, checksums verified.

    Raises:
        StreamBrokenError: A checksum or a length is wrong, or the connection broke.
    """
    from botocore.eventstream import EventStreamBuffer, ParserError  # noqa: PLC0415  # an extra

    buffer = EventStreamBuffer()
    async for piece in answer.pieces():
        buffer.add_data(piece)
        try:
            for message in buffer:
                yield StreamMessage(message.headers, answer.without_secrets(message.payload))
        except (ParserError, ValueError, KeyError) as error:
            raise StreamBrokenError(
                f"{answer.backend} sent a damaged event: {type(error).__name__}"
            ) from error


def path_part(text: str) -> str:
    """One segment of a path, as AWS's own clients encode it."""
    return quote(text, safe="-._~")
