"""Streams that are pushed from the backend's connection to the client's."""

import asyncio
import json
import subprocess
from pathlib import Path

import psutil
import pytest

from support.processes import FUNGIBLE
from support.raw_server import RawServer
from support.rows import rows

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True})
REQUEST = (
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}"
).encode()
BIG = "x" * 60_000


def event(text: str) -> bytes:
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def serve(config: Path, upstream: RawServer) -> tuple[subprocess.Popen[bytes], int]:
    url = f"{upstream.url.replace('localhost', '127.0.0.1')}/v1"
    config.write_text(  # noqa: ASYNC240  # a small file
        f'home = "home"\n[backend.a]\nurl = "{url}"\n[route.m]\nreference = "a"\nretries = 0\n'
    )
    process = subprocess.Popen(  # noqa: ASYNC220  # starting one takes no time
        [*FUNGIBLE, "gateway", "serve", "--config", str(config), "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    url = json.loads(await asyncio.to_thread(process.stdout.readline))["url"]
    return process, int(url.rsplit(":", 1)[1])


@pytest.mark.parametrize("apart", [False, True])
async def test_events_come_as_they_are_and_the_row_before_the_end(
    tmp_path: Path, apart: bool
) -> None:
    """`apart`: the end of the message comes after the last event, as most servers send it."""
    config = tmp_path / "fungible.toml"
    end = [END[:-5], 0.05, END[-5:]] if apart else [END]
    script = [HEAD, event("one"), 0.05, event(" two"), 0.05, event(" three"), *end]
    async with RawServer(script) as upstream:
        process, port = await serve(config, upstream)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(REQUEST)
            said = await reader.readuntil(b"0\r\n\r\n")
            assert said.endswith(END)
            await asyncio.sleep(0.2 if apart else 0.0)
            assert [said.count(word) for word in (b"one", b" two", b" three")] == [1, 1, 1]
        writer.close()
        done = rows(tmp_path / "home" / "spool")
        assert [(row.status, row.output_chars) for row in done] == [("ok", 13)] * 2
        assert upstream.connections == 1
        process.terminate()
        await asyncio.to_thread(process.communicate)


async def test_a_client_that_reads_slowly_holds_its_backend_up_not_our_memory(
    tmp_path: Path,
) -> None:
    config, sent = tmp_path / "fungible.toml", 400
    async with RawServer([HEAD, *[event(BIG)] * sent, END]) as upstream:
        process, port = await serve(config, upstream)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        writer.write(REQUEST)
        await asyncio.sleep(1.0)
        assert psutil.Process(process.pid).memory_info().rss < 150 << 20
        said = 0
        while not (piece := await reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
            said += len(piece)
            assert piece
        assert said > sent * len(BIG)
        writer.close()
        process.terminate()
        await asyncio.to_thread(process.communicate)
    assert [row.status for row in rows(tmp_path / "home" / "spool")] == ["ok"]
