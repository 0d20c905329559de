"""Sessions: handles of the engine that outlive a request, with their temporary tables.

All methods belong to the event loop's thread.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from fungible.control.clickhouse.failures import ClickHouseError
from fungible.control.clickhouse.handles import Handle
from fungible.control.clickhouse.request import Ask

MOST_SESSIONS = 500


class Session:
    """Where a statement runs. Without a name it is for one statement.

    Attributes:
        handle: Opened by its first statement.
        release: Lets the next request have it. Call it before the client can know that its
            answer is whole; otherwise its next request may find the session still taken.
    """

    def __init__(self, *, named: bool) -> None:
        self.named = named
        self.handle: Handle | None = None
        self.release: Callable[[], None] = lambda: None
        self.busy = False
        self.expiry: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close its handle."""
        if self.expiry is not None:
            self.expiry.cancel()
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.close()


class Sessions:
    """Sessions by user and name. Each serves one request at a time, and ends when it idles."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], Session] = {}

    @contextlib.contextmanager
    def lend(self, user: str, ask: Ask) -> Iterator[Session]:
        """The session that a request names, or a new one, for the `with` block.

        Raises:
            ClickHouseError: 372 unknown, 373 busy, 202 too many sessions.
        """
        if not ask.session:
            yield Session(named=False)
            return
        key = (user, ask.session)
        session = self._found(key, ask)
        session.busy = True
        if session.expiry is not None:
            session.expiry.cancel()
        released = False

        def release() -> None:
            nonlocal released
            if released:
                return
            released, session.busy = True, False
            if ask.session_close or session.handle is None:
                self._end(key)
            else:
                loop = asyncio.get_running_loop()
                session.expiry = loop.call_later(ask.session_s, self._end, key)

        session.release = release
        try:
            yield session
        finally:
            release()

    def close(self) -> None:
        """End every session."""
        for key in list(self._sessions):
            self._end(key)

    def _found(self, key: tuple[str, str], ask: Ask) -> Session:
        session = self._sessions.get(key)
        if session is None:
            if ask.session_check:
                raise ClickHouseError(372, f"Session {ask.session[:64]!r} not found")
            if len(self._sessions) >= MOST_SESSIONS:
                raise ClickHouseError(202, f"{MOST_SESSIONS} sessions are open: end some, or wait")
            session = self._sessions[key] = Session(named=True)
        if session.busy:
            raise ClickHouseError(373, f"Session {ask.session[:64]!r} is locked by another query")
        return session

    def _end(self, key: tuple[str, str]) -> None:
        self._sessions.pop(key).close()
