"""An answer that has begun: its reader takes it to the end, and the row comes before the end."""

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol

from fungible.contract.events import AttemptEvent
from fungible.errors import FungibleError, UpstreamError
from fungible.routing.attempt import Attempt

log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Who keeps rows, and knows which answers have none yet."""

    under_way: set["Dispatched"]

    async def record(self, event: AttemptEvent) -> bool:
        """Put a row on disk; whether it is there."""
        ...

    def in_background(self, work: Coroutine[Any, Any, object]) -> None:
        """Run to its end whatever happens to the caller."""
        ...


class Dispatched:
    """An answer that has begun. `pull` it until it has `ended`, or call `aclose`.

    Attributes:
        status: HTTP status, 200 here: failures before the first token are raised instead.
        backend: Who answers.
        streamed: Whether it is server-sent events; otherwise the whole comes at once.
        dropped: Fields of the request that the backend was not sent.
        ended: Whether everything was pulled.
        abandoned: Set by the reader when its client is gone: the row then says `cancelled`,
            however far the answer is read.
        attempt: The row, once the body was read to its end; `None` before.
        recorded: Whether that row is on disk.
    """

    status = 200

    def __init__(self, attempt: Attempt, recorder: Recorder) -> None:
        self.content_type = attempt.content_type
        self.backend = attempt.place.name
        self.streamed = attempt.request.stream
        self.dropped = attempt.dropped
        self.ended = False
        self.abandoned = False
        self.attempt: AttemptEvent | None = None
        self.recorded = False
        self._attempt = attempt
        self._early = iter(attempt.early if self.streamed else ())
        self._recorder = recorder
        recorder.under_way.add(self)

    @property
    def number(self) -> int:
        """Of the next event, where the stream's format numbers its events; else 0."""
        return self._attempt.number

    def take_early(self) -> bytes:
        """The events that are here already, for whoever will `push` the rest."""
        return b"".join(self._early)

    async def pull(self) -> bytes:
        """The next piece of the body: events of a stream, or the whole. Empty after the end.

        The row is on disk before the last piece is returned, unless the disk is full and the
        policy is to serve all the same.

        Raises:
            UpstreamError: The upstream broke off or fell silent; nothing says `[DONE]` then.
            DiskError: The row could not be written; the end of the answer is withheld.
        """
        return b"" if self.ended else await self._watched(self._pulled())

    async def push(self, write: Callable[[bytes], None]) -> bytes:
        """Call `write` with the pieces of a stream as they come; the last one is returned.

        Where the backend can, no task wakes up for a piece. Raises what `pull` raises.
        """
        return await self._watched(self._pushed(write))

    async def _pulled(self) -> bytes:
        attempt = self._attempt
        if self.streamed:
            for events in self._early:
                return events
            while not attempt.done:
                if events := await attempt.more():
                    return events
        return await self._last()

    async def _pushed(self, write: Callable[[bytes], None]) -> bytes:
        attempt = self._attempt
        for events in self._early:
            write(events)
        if (reply := attempt.pushed) is not None and not attempt.done:
            await attempt.push(reply, write)
        while not attempt.done:
            if events := await attempt.more():
                write(events)
        return await self._last()

    def hold(self) -> None:
        """Take no more from the backend for now, where it pushes."""
        self._attempt.hold(True)

    def go_on(self) -> None:
        """Take on."""
        self._attempt.hold(False)

    async def _last(self) -> bytes:
        attempt = self._attempt
        await self._commit()
        self.ended = True
        await attempt.close()
        return attempt.last if self.streamed else b"".join(attempt.early)

    async def _watched(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """Leave a row of what breaks."""
        try:
            return await reading
        except UpstreamError as error:
            await self._broken(error)
            raise
        except FungibleError:
            raise
        except Exception as error:
            failure = adapter_failure(self.backend, error)
            await self._broken(failure)
            raise failure from error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The pieces of the body; raises what `pull` raises."""
        try:
            while not self.ended:
                yield await self.pull()
        finally:
            await self.aclose()

    async def _commit(self) -> None:
        event = self._attempt.finish("cancelled" if self.abandoned else "ok")
        self._attempt.place.breaker.succeeded()
        self.recorded = await self._recorder.record(event)
        self.attempt = event

    async def _broken(self, error: UpstreamError) -> None:
        event = self._attempt.finish("interrupted", error)
        self._attempt.place.breaker.failed()
        self.recorded = await self._recorder.record(event)
        self.attempt = event

    async def aclose(self) -> None:
        """End it. If the body was not read to its end, the row says `cancelled`."""
        self.abandon()
        await self._attempt.close()

    def abandon(self) -> None:
        """Leave a row, if there is none yet: whoever reads may not get to it any more."""
        self._recorder.under_way.discard(self)
        if self._attempt.event is None:
            # The client may be gone and our task cancelled: the row is written by another task.
            self.attempt = self._attempt.finish("cancelled")
            self._recorder.in_background(self._recorder.record(self.attempt))


def adapter_failure(name: str, error: Exception) -> UpstreamError:
    """What an adapter that broke its own contract looks like to everybody else."""
    log.error("the adapter of backend %s failed", name, exc_info=error)
    return UpstreamError(f"the adapter of backend {name} failed unexpectedly: {error!r}")
