"""Answers that need no translation: server-sent events or JSON, passed on as they came."""

from collections.abc import AsyncIterator, Awaitable, Callable

from fungible.backends.http_pool import Answer
from fungible.contract.sse import EventBuffer
from fungible.errors import StreamBrokenError

MOST_EVENT_BYTES = 8 << 20


class PassedReply:
    """An upstream that speaks the endpoint itself."""

    def __init__(self, answer: Answer, *, stream: bool) -> None:
        self.status = answer.status
        self.content_type = answer.content_type
        self._answer = answer
        self._stream = stream
        self._buffer = EventBuffer()

    def chunks(self) -> AsyncIterator[bytes]:
        """Whole events, several at a time; or the body once."""
        answer = self._answer
        return WholeEvents(answer.piece, answer, self._buffer) if self._stream else self._whole()

    async def _whole(self) -> AsyncIterator[bytes]:
        yield self._answer.without_secrets(await self._answer.whole())

    async def push(self, take: Callable[[bytes], None]) -> None:
        """What `chunks` gives, pushed; see `backends.base.PushedReply`."""
        answer, buffer, secrets = self._answer, self._buffer, self._answer.secrets

        def taken(piece: bytes) -> None:
            if buffer.rest or not piece.endswith(b"\n\n"):  # hardly ever
                piece = buffer.feed(piece)
                if not piece:
                    if len(buffer.rest) > MOST_EVENT_BYTES:
                        raise too_long(answer.backend)
                    return
            take(answer.without_secrets(piece) if secrets else piece)

        await answer.push(taken)
        if rest := buffer.last():
            take(answer.without_secrets(rest))

    def pause(self) -> None:
        """Read no more for now."""
        self._answer.pause()

    def resume(self) -> None:
        """Read on."""
        self._answer.resume()

    async def finish(self) -> None:
        """`close`, after the last event."""
        await self._answer.finish()

    async def close(self) -> None:
        """Free the connection."""
        await self._answer.close()


class WholeEvents:
    """Server-sent events out of a byte stream that is cut anywhere.

    An iterator of its own, not a generator: it is asked for every token of every stream.

    Args:
        more: The next bytes; none at the end.
        answer: Whose they are.
        buffer: Where bytes wait for the end of their event.
    """

    def __init__(
        self,
        more: Callable[[], Awaitable[bytes]],
        answer: Answer,
        buffer: EventBuffer | None = None,
    ) -> None:
        self._more = more
        self._answer = answer
        self._buffer = buffer or EventBuffer()

    def __aiter__(self) -> "WholeEvents":
        return self

    async def __anext__(self) -> bytes:
        """The next events.

        Raises:
            StreamBrokenError: An event has no end within 8 MiB, or the connection broke.
            UpstreamTimeoutError: The upstream fell silent.
        """
        buffer = self._buffer
        while piece := await self._more():
            if events := buffer.feed(piece):
                return self._answer.without_secrets(events)
            if len(buffer.rest) > MOST_EVENT_BYTES:
                raise too_long(self._answer.backend)
        if rest := buffer.last():
            return self._answer.without_secrets(rest)
        raise StopAsyncIteration


def too_long(backend: str) -> StreamBrokenError:
    """An event that does not end would fill memory."""
    return StreamBrokenError(f"{backend} sent an event without an end")
