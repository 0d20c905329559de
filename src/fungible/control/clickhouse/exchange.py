"""One HTTP exchange: how an answer, its headers and its failures go out."""

import asyncio
import contextlib
import secrets
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from fungible.control.clickhouse.body import Body
from fungible.control.clickhouse.coding import Encoder, best_coding
from fungible.control.clickhouse.engine import ClientGoneError, Engine
from fungible.control.clickhouse.failures import ClickHouseError
from fungible.control.clickhouse.formats import content_type
from fungible.control.clickhouse.runs import Run

# How long a client may leave its answer unread.
SEND_S = 60.0
# So much of an answer is collected before it begins to go out; errors until then have a status.
BUFFER_BYTES = 256 << 10
WHOLE_BUFFER_BYTES = 16 << 20
_APPEND_BYTES = 1 << 20
_FOREVER_S = 1e9


class Exchange:
    """A request and what is sent back.

    Attributes:
        query_id: Told in the answer, once known.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, engine: Engine) -> None:
        self.headers = Headers(scope=scope)
        self.receive = receive
        self.query_id = ""
        self._send = send
        self._engine = engine
        self._begun = False
        stopping = scope.get("extensions", {}).get("fungible.stopping")
        self._stopping: asyncio.Event = stopping or asyncio.Event()

    async def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """The whole answer at once."""
        await self._begin(status, {**headers, "content-length": str(len(body))})
        await self._piece(body, more=False)

    async def fail(self, error: ClickHouseError) -> None:
        """Say what went wrong, unless an answer has begun: then its own end says so."""
        if self._begun:
            return
        headers = {
            "content-type": "text/plain; charset=UTF-8",
            "x-clickhouse-exception-code": str(error.code),
        }
        if error.status == 401:
            headers["www-authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        if error.status == 503:
            headers["retry-after"] = "1"
        await self.reply(error.status, error.text(self._engine.version).encode(), headers)

    async def insert(self, lane: ThreadPoolExecutor, run: Run, rows: bytes, body: Body) -> None:
        """Insert `rows` and the rest of the body; answer when they are kept."""
        inserter = run.insertion()
        never = asyncio.get_running_loop().create_future()

        def give(data: bytes | None) -> None:
            with contextlib.suppress(StopIteration):
                inserter.send(data)

        async def step(data: bytes | None) -> None:
            await self._engine.step(lane, run.mark, never, lambda: give(data))

        try:
            await step(None)
            async for data in _gathered(rows, body):
                await step(data)
            await step(None)
        finally:
            await self._in_lane(lane, inserter.close)
        run.session.release()
        headers = self._described(run) | {"content-type": "text/plain; charset=UTF-8"}
        await self.reply(200, b"", headers)

    async def select(
        self, lane: ThreadPoolExecutor, run: Run, *, readonly: bool, has_rows: bool, whole: bool
    ) -> None:
        """Run a statement and send its answer.

        Args:
            lane: Where it runs.
            run: What runs.
            readonly: Whether it may only read.
            has_rows: Whether its answer is rows, in a format.
            whole: Whether to wait for the end, as far as there is room.
        """
        pieces = run.pieces(readonly=readonly)
        encoder = Encoder(best_coding(self.headers.get("accept-encoding", "")))
        # What writes goes on when its client leaves, as with a server.
        leaving = self._nobody_waits() if has_rows else asyncio.sleep(_FOREVER_S)
        gone = asyncio.ensure_future(leaving)

        def advance() -> tuple[bytes, bool]:
            piece = next(pieces, None)
            return (encoder.end(), True) if piece is None else (encoder.add(piece), False)

        try:
            held, ended = bytearray(), False
            while not ended and len(held) <= (WHOLE_BUFFER_BYTES if whole else BUFFER_BYTES):
                data, ended = await self._engine.step(lane, run.mark, gone, advance)
                held += data
            headers = self._described(run) | {"content-type": content_type(run.format)}
            if has_rows:
                headers["x-clickhouse-format"] = run.format
            if encoder.coding != "identity":
                headers |= {"content-encoding": encoder.coding, "vary": "accept-encoding"}
            if ended:
                run.session.release()
                await self.reply(200, bytes(held), headers)
                return
            steps = partial(self._engine.step, lane, run.mark, gone, advance)
            await self._stream(bytes(held), headers, steps, run, encoder)
        except ClientGoneError:
            if not self._stopping.is_set():
                raise
            raise ClickHouseError(394, "Query was cancelled: control stops", status=503) from None
        finally:
            gone.cancel()
            await self._in_lane(lane, pieces.close)

    async def _stream(
        self,
        data: bytes,
        headers: dict[str, str],
        step: Callable[[], Awaitable[tuple[bytes, bool]]],
        run: Run,
        encoder: Encoder,
    ) -> None:
        """Send an answer as it is made: `data`, then what each `step` brings."""
        del headers["x-clickhouse-summary"]
        tag = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))
        await self._begin(200, headers | {"x-clickhouse-exception-tag": tag})
        await self._piece(data, more=True)
        ended = False
        try:
            while not ended:
                data, ended = await step()
                if ended:
                    run.session.release()
                await self._piece(data, more=not ended)
        except ClickHouseError as error:
            await self._break_off(error, tag, encoder)

    async def _break_off(self, error: ClickHouseError, tag: str, encoder: Encoder) -> None:
        """Put the error where clients look for it, and end without the end of the body.

        The frame is that of ClickHouse 25.11 and later.
        """
        text = error.text(self._engine.version).encode()
        frame = b"\r\n__exception__\r\n%b\r\n%b%d %b\r\n__exception__\r\n" % (
            tag.encode(),
            text,
            len(text),
            tag.encode(),
        )
        await self._piece(encoder.add(frame) + encoder.end(), more=True)

    def _described(self, run: Run) -> dict[str, str]:
        return {"x-clickhouse-summary": msgspec.json.encode(run.summary).decode()}

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._begun = True
        named = {
            "x-clickhouse-server-display-name": "fungible",
            "x-clickhouse-timezone": self._engine.timezone,
            "x-clickhouse-query-id": self.query_id,
            "cache-control": "no-store",
            **headers,
        }
        raw = [
            (name.encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in named.items()
            if value
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _piece(self, data: bytes, *, more: bool) -> None:
        if not data and more:
            return
        message = {"type": "http.response.body", "body": data, "more_body": more}
        if not more:
            async with asyncio.timeout(SEND_S):
                await self._send(message)
            return
        sending = asyncio.ensure_future(self._send(message))
        stops = asyncio.ensure_future(self._stopping.wait())
        try:
            async with asyncio.timeout(SEND_S):
                await asyncio.wait({sending, stops}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientGoneError
            await sending
        finally:
            stops.cancel()
            sending.cancel()

    async def _nobody_waits(self) -> None:
        """Until the client leaves, or the server begins to stop."""
        both: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._client_leaves()),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()

    async def _client_leaves(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _in_lane(self, lane: ThreadPoolExecutor, work: Callable[[], object]) -> None:
        """Clean up where the work was done, also when this task is cancelled."""
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(lane, work))


async def _gathered(rows: bytes, body: Body) -> AsyncIterator[bytes]:
    """`rows` and the rest of the body, in larger pieces."""
    held = bytearray(rows)
    async for piece in body.pieces():
        held += piece
        if len(held) >= _APPEND_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
