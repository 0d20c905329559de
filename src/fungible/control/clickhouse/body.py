"""A request's body: decoded piece by piece, bounded, and never held whole."""

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Receive

from fungible.control.clickhouse.coding import Decoder
from fungible.control.clickhouse.engine import ClientGoneError
from fungible.control.clickhouse.failures import ClickHouseError
from fungible.control.clickhouse.statement import Statement, read_statement

MAX_STATEMENT = 1 << 20
# How long a client may say nothing in the middle of its request.
SILENCE_S = 60.0
# A few bytes can stand for very many, so they are decoded a few at a time.
_DECODE_BYTES = 4096


class Body:
    """Reads a request.

    Args:
        receive: ASGI's.
        coding: Value of `Content-Encoding`.
        max_bytes: Of the decoded body.
    """

    def __init__(self, receive: Receive, coding: str, max_bytes: int) -> None:
        self._receive = receive
        self._decoder = Decoder(coding)
        self._plain = coding.strip().lower() in ("", "identity")
        self._max = max_bytes
        self._size = 0
        self._done = False
        # What has come and is not decoded yet: reading may stop and go on anywhere.
        self._coded = memoryview(b"")

    async def pieces(self) -> AsyncIterator[bytes]:
        """What is left of the body.

        Raises:
            ClickHouseError: It is too large, or is not in its coding.
            ClientGoneError: The client left.
            TimeoutError: It fell silent.
        """
        while self._coded or not self._done:
            if not self._coded:
                async with asyncio.timeout(SILENCE_S):
                    message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                self._done = not message.get("more_body", False)
                self._coded = memoryview(message.get("body", b""))
            width = len(self._coded) if self._plain else _DECODE_BYTES
            data, self._coded = bytes(self._coded[:width]), self._coded[width:]
            if piece := self._decoder.add(data):
                self._count(len(piece))
                yield piece
        self._decoder.end()

    async def statement(self, prefix: bytes) -> tuple[Statement, bytes]:
        """The statement that `prefix` and the body hold, and the first rows of its INSERT.

        Raises:
            ClickHouseError: The statement is too large.
        """
        text = bytearray(prefix)
        async for piece in self.pieces():
            text += piece
            found = read_statement(bytes(text), whole=False)
            if found is not None:
                return found, bytes(text[found.rows_at :])
            if len(text) > MAX_STATEMENT:
                raise ClickHouseError(
                    223,
                    f"the statement is larger than {MAX_STATEMENT} bytes",
                    name="QUERY_IS_TOO_LARGE",
                )
        whole = read_statement(bytes(text), whole=True)
        assert whole is not None  # noqa: S101  # nothing is left to wait for
        rows = bytes(text[whole.rows_at :]) if whole.rows_at >= 0 else b""
        return whole, rows

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._max:
            raise ClickHouseError(396, f"the body is larger than {self._max} bytes", status=413)
