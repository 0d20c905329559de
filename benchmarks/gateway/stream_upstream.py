"""A lean model server for streams: so many events, so far apart. Runs in a process of its own.

    python benchmarks/gateway/stream_upstream.py [--interval-ms 2] [--idle-s 0]

Prints its port as one line of JSON. Whole answers come at once.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway import wire

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _whole() -> bytes:
    body = wire.completion()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class Connection(asyncio.Protocol):
    """Answers one request after the other; reads no more of one than it must."""

    interval_s = 0.002
    idle_s = 0.0
    events = (
        *map(_chunked, wire.chunks()[:-1]),
        _chunked(wire.chunks()[-1] + b"data: [DONE]\n\n") + b"0\r\n\r\n",
    )
    whole = _whole()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._got = bytearray()
        self._need = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop sending."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer once the whole body is here."""
        self._got += data
        if not self._need:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._need = end + 4 + length
        if len(self._got) < self._need:
            return
        streamed = b'"stream":true' in self._got or b'"stream": true' in self._got
        self._got.clear()
        self._need = 0
        if not streamed:
            self._transport.write(self.whole)  # type: ignore[attr-defined]
            return
        self._transport.write(_STREAM_HEAD)  # type: ignore[attr-defined]
        self._send(0)

    def _send(self, at: int) -> None:
        self._transport.write(self.events[at])  # type: ignore[attr-defined]
        if at + 1 < len(self.events):
            # An idle stream says its first word, waits, and goes on as usual.
            wait = self.idle_s if at == 1 and self.idle_s else self.interval_s
            self._timer = self._loop.call_later(wait, self._send, at + 1)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--interval-ms", type=float, default=2.0, help="between two events")
    parser.add_argument("--idle-s", type=float, default=0.0, help="a pause after the first word")
    arguments = parser.parse_args()
    Connection.interval_s = arguments.interval_ms / 1000
    Connection.idle_s = arguments.idle_s
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=8192)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
