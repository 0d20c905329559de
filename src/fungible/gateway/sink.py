"""Where a pushed answer goes: to its client, no faster than the client reads."""

import asyncio

from fungible.gateway.call import CHUNK, Call
from fungible.routing.answer import Dispatched


class Sink:
    """Takes the pieces of one answer. Whoever made it must `close` it.

    Args:
        call: Once its client is gone, pieces are dropped and the row says `cancelled`.
        answer: Held up while the client is slow.
    """

    def __init__(self, call: Call, answer: Dispatched) -> None:
        self._call = call
        self._answer = answer
        self._send = call.line.send
        self._chunked = call.chunked
        self._waiting: asyncio.Task[None] | None = None

    def write(self, events: bytes) -> None:
        """One piece."""
        call = self._call
        if call.gone:
            self._answer.abandoned = True
            return
        # `call.write`, without the call: this is every token of a stream.
        data = CHUNK % (len(events), events) if self._chunked else events
        if self._send(data) and self._waiting is None:
            self._answer.hold()
            self._waiting = asyncio.get_running_loop().create_task(self._go_on())

    async def _go_on(self) -> None:
        await self._call.drained()
        self._waiting = None
        self._answer.go_on()

    def close(self) -> None:
        """Wait for the client no more."""
        if self._waiting is not None:
            self._waiting.cancel()
