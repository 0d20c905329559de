"""Access tokens that expire: fetched off the event loop, renewed before they run out."""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from fungible.errors import UpstreamSetupError

log = logging.getLogger(__name__)

# Renewed this long before the end: longer than a request takes to arrive.
RENEW_BEFORE_S = 300.0


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer token and when it ends, in seconds since the epoch."""

    value: str
    expires: float


class TokenSource:
    """One vendor credential, shared by all requests of a backend.

    `fetch` blocks (it may ask a metadata server or an identity provider) and runs in a thread.
    """

    def __init__(self, backend: str, fetch: Callable[[], Token], hint: str) -> None:
        self._backend = backend
        self._fetch = fetch
        self._hint = hint
        self._token: Token | None = None
        self._renewal: asyncio.Task[Token] | None = None

    async def token(self) -> str:
        """A token that is good now; while one is being renewed the old one serves.

        Raises:
            UpstreamSetupError: The vendor's library gave none; says which kind of failure.
        """
        token, left = self._token, 0.0
        if token is not None:
            left = token.expires - time.time()
            if left > RENEW_BEFORE_S:
                return token.value
        renewal = self._renew()
        if token is not None and left > 0:
            return token.value
        # Shielded: others wait for the same one.
        return (await asyncio.shield(renewal)).value

    def _renew(self) -> asyncio.Task[Token]:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._fetched())
            self._renewal.add_done_callback(self._log_failure)
        return self._renewal

    async def _fetched(self) -> Token:
        try:
            self._token = await asyncio.to_thread(self._fetch)
        except Exception as error:  # each vendor's library has an error tree of its own
            # Its message may quote what it was given, so only its kind is told.
            raise UpstreamSetupError(
                f"{self._backend}: no access token: {type(error).__name__}", hint=self._hint
            ) from error
        return self._token

    def _log_failure(self, task: asyncio.Task[Token]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s", error)

    async def close(self) -> None:
        """Forget the token; wait for a renewal under way, which cannot be cancelled."""
        renewal, self._renewal, self._token = self._renewal, None, None
        if renewal is not None:
            await asyncio.gather(renewal, return_exceptions=True)
