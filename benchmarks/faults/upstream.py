"""A model server on loopback that speaks the OpenAI API, well or badly, as a script says.

    python benchmarks/faults/upstream.py [--port 9100]     # the model's name picks the fault

Prints its address as one line of JSON. `benchmarks/faults/catalogue.py` names the faults.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import gzip
import json
import sys
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

FOREVER = 3600.0


@dataclasses.dataclass(kw_only=True)
class Script:
    """How one request is answered. Counts (`…_after`) are events (words) sent before.

    Attributes:
        body: The whole body instead of a completion.
        error_body: What a status other than 200 says.
        usage: `asked` sends it in a stream only when `include_usage` was asked for; `each`
            with every event; `twice` unasked, the same one twice at the end.
        counts: The usage itself, instead of one counted from the words.
        ping: Send comments and events without choices between the words.
        done: Whether a stream ends in `[DONE]`.
        cut_body_after: Send so many bytes of a whole body, then close.
        piece: Bytes per TCP write; 0 writes an event at once.
    """

    words: tuple[str, ...] = ("Grüße", " aus", " Köln")
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    content_type: str = ""
    body: bytes | None = None
    error_body: bytes = b'{"error": {"message": "scripted", "type": "x", "code": null}}'
    usage: Literal["asked", "never", "each", "twice"] = "asked"
    counts: dict[str, Any] | None = None
    finish: str = "stop"
    ping: bool = False
    done: bool = True
    cut_body_after: int | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    error_after: int | None = None
    malformed_after: int | None = None
    wait_s: float = 0.0
    word_s: float = 0.0
    gzipped: bool = False
    bare_colon: bool = False
    crlf: bool = False
    piece: int = 0


class Seen:
    """One request that arrived, and whether its client left before the answer's end."""

    def __init__(self, path: str, headers: dict[str, str], body: Any) -> None:  # noqa: ANN401  # any JSON
        self.path = path
        self.headers = headers
        self.body = body
        self.disconnected = asyncio.Event()
        self.finished = False


class Upstream:
    """An async context manager. `next` is used up first, one a request; then `default`.

    Args:
        default: For everything that nothing else is said about.
        by_model: Scripts by the model's name in a request.
        port: Where to listen; 0 picks a free one.

    Attributes:
        most_active: Most requests that were waiting for their answers to begin at once.
        violations: What was wrong with requests, by the vendor's own model; see `check`.

    Other vendors' wires override `check` and what follows it.
    """

    stream_type = "text/event-stream; charset=utf-8"

    def __init__(
        self,
        default: Script | None = None,
        by_model: Mapping[str, Script] | None = None,
        port: int = 0,
    ) -> None:
        self.default = default or Script()
        self._by_model = by_model or {}
        self._port = port
        self.next: list[Script] = []
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.active = 0
        self.most_active = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Upstream":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        while self._writers:  # noqa: ASYNC110  # handlers have no common end to wait for
            await asyncio.sleep(0.005)

    async def arrived(self, count: int) -> None:
        """Wait until so many requests came."""
        async with asyncio.timeout(20):
            while len(self.requests) < count:  # noqa: ASYNC110  # a test can poll
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._exchange(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self._writers.discard(writer)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        seen = Seen(head[0].split()[1], headers, json.loads(raw) if raw else None)
        if head[0].startswith("GET "):
            await self._write(writer, Script(), b'{"data": []}', "application/json")
            return
        self.requests.append(seen)
        script = self.next.pop(0) if self.next else self._named(seen)
        try:
            self.check(seen, raw)
        except AssertionError as error:
            self.violations.append(str(error))
            said = json.dumps({"error": {"message": str(error)}}).encode()
            script = Script(status=400, error_body=said)
        answering = asyncio.ensure_future(self._answer(seen, script, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            seen.disconnected.set()
            answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)

    def _named(self, seen: Seen) -> Script:
        model = seen.body.get("model") if isinstance(seen.body, dict) else None
        return self._by_model.get(str(model), self.default)

    async def _answer(self, seen: Seen, script: Script, writer: asyncio.StreamWriter) -> None:
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            await asyncio.sleep(script.wait_s)
        finally:
            self.active -= 1
        streamed = self.streamed(seen)
        if script.status != 200 or script.body is not None or not streamed:
            body = script.body if script.body is not None else self.whole(script)
            body = script.error_body if script.status != 200 else body
            if script.stall_after is not None:
                await asyncio.sleep(FOREVER)
            if script.reset_after is not None:
                writer.transport.abort()
                return
            await self._write(writer, script, body, script.content_type or "application/json")
        else:
            await self._stream(seen, script, writer)
        seen.finished = True

    def check(self, seen: Seen, raw: bytes) -> None:
        """Raise `AssertionError` where the request breaks the vendor's model."""

    def streamed(self, seen: Seen) -> bool:
        """Whether the client wants a stream."""
        return bool(seen.body.get("stream"))

    def whole(self, script: Script) -> bytes:
        """A completed answer."""
        return whole(script)

    def opening(self, script: Script) -> list[bytes]:
        """Events before the first word."""
        return []

    def word(self, script: Script, at: int) -> bytes:
        """One event of text."""
        return frame(script, chunk(script, {"content": script.words[at]}, None))

    def ending(self, script: Script, wanted: bool) -> list[bytes]:
        """The last events; `wanted`: the client asked for usage."""
        found = [frame(script, chunk(script, {}, script.finish))]
        last = {**chunk(script, {}, None), "choices": [], "usage": usage_of(script)}
        times = {"asked": int(wanted), "twice": 2}.get(script.usage, 0)
        found += [frame(script, last)] * times
        return [*found, frame(script, "[DONE]")] if script.done else found

    def failure(self, script: Script) -> bytes:
        """The event of an upstream that breaks off."""
        return frame(script, {"error": {"message": "out of memory", "code": 500}})

    def malformed(self) -> bytes:
        """Something that is no event of this vendor."""
        return b"data: {not json\n\n"

    async def events(
        self, script: Script, wanted: bool, writer: asyncio.StreamWriter
    ) -> AsyncIterator[bytes]:
        """Events of a stream, up to the scripted end of it."""
        for event in self.opening(script):
            yield event
        for at in range(len(script.words) + 1):
            if at == script.cut_after:
                return
            if at == script.reset_after:
                await asyncio.sleep(0.02)  # let what was sent arrive: a reset discards the rest
                writer.transport.abort()
                return
            if at == script.stall_after:
                await asyncio.sleep(FOREVER)
            if at == script.error_after:
                yield self.failure(script)
                return
            if at == script.malformed_after:
                yield self.malformed()
            if at < len(script.words):
                await asyncio.sleep(script.word_s)
                yield pings(script) + self.word(script, at)
        for event in self.ending(script, wanted):
            yield event

    async def _write(
        self, writer: asyncio.StreamWriter, script: Script, body: bytes, content_type: str
    ) -> None:
        data = gzip.compress(body) if script.gzipped else body
        sent = data[: script.cut_body_after]
        writer.write(head_of(script, content_type, f"Content-Length: {len(data)}") + sent)
        await writer.drain()

    async def _stream(self, seen: Seen, script: Script, writer: asyncio.StreamWriter) -> None:
        kind = script.content_type or self.stream_type
        writer.write(head_of(script, kind, "Transfer-Encoding: chunked"))
        compressor = zlib.compressobj(wbits=31) if script.gzipped else None
        wanted = bool((seen.body.get("stream_options") or {}).get("include_usage"))
        async for event in self.events(script, wanted, writer):
            data = event
            if compressor is not None:
                data = compressor.compress(event) + compressor.flush(2)
            for piece in pieces(data, script.piece):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                if script.piece:
                    await asyncio.sleep(0.001)
        if writer.transport.is_closing():
            return
        tail = compressor.flush() if compressor else b""
        writer.write((b"%x\r\n%s\r\n" % (len(tail), tail) if tail else b"") + b"0\r\n\r\n")
        await writer.drain()


def head_of(script: Script, content_type: str, length: str) -> bytes:
    """Status line and headers."""
    known = script.status in HTTPStatus._value2member_map_
    reason = HTTPStatus(script.status).phrase if known else "Custom"
    lines = [f"HTTP/1.1 {script.status} {reason}"]
    lines += [f"Content-Type: {content_type}", length, "Connection: close"]
    lines += ["Content-Encoding: gzip"] if script.gzipped else []
    lines += [f"{name}: {value}" for name, value in script.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` cut to pieces of `size` bytes; whole for 0."""
    yield from (data[at : at + size] for at in range(0, len(data), size)) if size else (data,)


def usage_of(script: Script) -> dict[str, Any]:
    """What the answer is said to have taken."""
    if script.counts is not None:
        return script.counts
    count = len(script.words)
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}


def whole(script: Script) -> bytes:
    """A completion; umlauts stay raw UTF-8."""
    message = {"role": "assistant", "content": "".join(script.words)}
    answer: dict[str, Any] = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream-model",
        "choices": [{"index": 0, "message": message, "finish_reason": script.finish}],
    }
    if script.usage != "never":
        answer["usage"] = usage_of(script)
    return json.dumps(answer, ensure_ascii=False).encode()


def pings(script: Script) -> bytes:
    """A comment and an event without choices, where the script wants them."""
    empty = frame(script, {**chunk(script, {}, None), "choices": []})
    return b": ping\n\n" + empty if script.ping else b""


def chunk(script: Script, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    """One `chat.completion.chunk`."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "created": 1}
    body |= {"model": "upstream-model", "choices": [choice]}
    if script.usage == "each":
        body["usage"] = usage_of(script)
    return body


def frame(script: Script, data: object) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    end = "\r\n" if script.crlf else "\n"
    return f"data:{'' if script.bare_colon else ' '}{text}{end}{end}".encode()


async def _main() -> None:
    from faults.catalogue import FAULTS, scripts  # noqa: PLC0415  # it imports this file

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    arguments = parser.parse_args()
    async with Upstream(by_model=scripts(), port=arguments.port) as server:
        print(json.dumps({"url": server.url, "models": list(FAULTS)}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package is
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
