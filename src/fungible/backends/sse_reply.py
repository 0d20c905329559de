"""Answers that need no translation: server-sent events or JSON, passed on as they came."""

from collections.abc import AsyncIterator, Awaitable, Callable

from fungible.backends.http_pool import Answer
from fungible.contract.sse import EventBuffer, frame_data
from fungible.errors import StreamBrokenError

MOST_EVENT_BYTES = 8 << 20


class PassedReply:
    """An upstream that speaks the endpoint itself."""

    def __init__(self, answer: Answer, *, stream: bool) -> None:
        self.status = answer.status
        self.content_type = answer.content_type
        self._answer = answer
        self._stream = stream

    def chunks(self) -> AsyncIterator[bytes]:
        """Whole events, several at a time; or the body once."""
        answer = self._answer
        return WholeEvents(answer.piece, answer) if self._stream else self._whole()

    async def _whole(self) -> AsyncIterator[bytes]:
        yield self._answer.without_secrets(await self._answer.whole())

    async def close(self) -> None:
        """Free the connection."""
        await self._answer.close()


class WholeEvents:
    """Server-sent events out of a byte stream that is cut anywhere.

    An iterator of its own, not a generator: it is asked for every token of every stream.

    Args:
        more: The next bytes; none at the end.
        answer: Whose they are.
    """

    def __init__(self, more: Callable[[], Awaitable[bytes]], answer: Answer) -> None:
        self._more = more
        self._answer = answer
        self._buffer = EventBuffer()

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
                raise StreamBrokenError(f"{self._answer.backend} sent an event without an end")
        # Some servers leave out the blank line after the last event.
        rest, buffer.rest = buffer.rest, b""
        if frame_data(rest) is None:
            raise StopAsyncIteration
        return self._answer.without_secrets(rest + b"\n\n")
