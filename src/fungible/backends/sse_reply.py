"""Answers that need no translation: server-sent events or JSON, passed on as they came."""

from collections.abc import AsyncIterator

from fungible.backends.http_pool import Answer
from fungible.contract.sse import FrameSplitter, frame_data
from fungible.errors import StreamBrokenError

MOST_EVENT_BYTES = 8 << 20


class PassedReply:
    """An upstream that speaks the endpoint itself."""

    def __init__(self, answer: Answer, *, stream: bool) -> None:
        self.status = answer.status
        self.content_type = answer.content_type
        self._answer = answer
        self._stream = stream

    async def chunks(self) -> AsyncIterator[bytes]:
        """Whole events, several at a time; or the body once."""
        if not self._stream:
            yield self._answer.without_secrets(await self._answer.whole())
            return
        async for events in whole_events(self._answer.pieces(), self._answer.backend):
            yield self._answer.without_secrets(events)

    async def close(self) -> None:
        """Free the connection."""
        await self._answer.close()


async def whole_events(pieces: AsyncIterator[bytes], backend: str) -> AsyncIterator[bytes]:
    """Server-sent events out of a byte stream that is cut anywhere.

    Raises:
        StreamBrokenError: An event has no end within 8 MiB.
    """
    splitter = FrameSplitter()
    async for piece in pieces:
        if frames := splitter.feed(piece):
            yield b"".join(frames)
        if len(splitter.rest) > MOST_EVENT_BYTES:
            raise StreamBrokenError(f"{backend} sent an event without an end")
    # Some servers leave out the blank line after the last event.
    if frame_data(splitter.rest) is not None:
        yield splitter.rest + b"\n\n"
