"""Where a pushed answer goes: to its client, no faster than the client reads."""

import asyncio

from fungible.gateway.presence import Presence
from fungible.gateway.writer import Writer
from fungible.routing.answer import Dispatched


class Sink:
    """Takes the pieces of one answer. Whoever made it must `close` it.

    Args:
        writer: The client's connection.
        answer: Held up while the client is slow.
        client: Once it is gone, pieces are dropped and the row says `cancelled`.
    """

    def __init__(self, writer: Writer, answer: Dispatched, client: Presence) -> None:
        self._writer = writer
        self._answer = answer
        self._client = client
        self._waiting: asyncio.Task[None] | None = None

    def write(self, events: bytes) -> None:
        """One piece."""
        if self._client.gone:
            self._answer.abandoned = True
            return
        self._writer.write(events)
        if self._writer.full and self._waiting is None:
            self._answer.hold()
            self._waiting = asyncio.get_running_loop().create_task(self._go_on())

    async def _go_on(self) -> None:
        await self._writer.drained()
        self._waiting = None
        self._answer.go_on()

    def close(self) -> None:
        """Wait for the client no more."""
        if self._waiting is not None:
            self._waiting.cancel()
