"""Reads the reply of a backend event by event, however it was cut."""

from collections.abc import AsyncIterator

from fungible.backends.base import Reply
from fungible.contract.sse import split_frames


async def parts_of(reply: Reply) -> AsyncIterator[bytes]:
    """The events of a stream one at a time, or the body of a whole answer."""
    async for chunk in reply.chunks():
        if reply.content_type != "text/event-stream":
            yield chunk
            continue
        for frame in split_frames(chunk):
            yield frame
