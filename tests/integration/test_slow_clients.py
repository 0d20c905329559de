"""Clients that dribble, send too much, or never read, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.processes import Server
from support.rows import rows
from support.upstream import Script, Upstream

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream) -> Iterator[Server]:
    path = tmp_path / "fungible.toml"
    path.write_text(f"""
        home = "home"
        [gateway]
        max_body_bytes = 5000
        max_header_bytes = 4000
        header_timeout_s = 0.6
        body_timeout_s = 0.6
        write_timeout_s = 0.6
        write_buffer_bytes = 20000
        [backend.a]
        url = "{upstream.url}"
        [route.m]
        reference = "a"
    """)
    with Server("gateway", "serve", "--config", str(path), "--port", "0") as running:
        yield running


async def connect(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=1 << 16)


async def exchange(server: Server, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Everything that the server says until it closes."""
    reader, writer = await connect(server)
    reading = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            if not reading.done():
                writer.write(piece)
                await asyncio.wait({reading}, timeout=pause_s)
        return await asyncio.wait_for(reading, 20)
    finally:
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def request(**fields: object) -> bytes:
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    ).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_who_sends_nothing_is_let_go(server: Server) -> None:
    assert await exchange(server) == b""


async def test_a_head_that_dribbles_gets_408(server: Server) -> None:
    said = await exchange(server, *(HEAD[at : at + 1] for at in range(30)), pause_s=0.03)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"head did not arrive in time" in said


async def test_a_body_that_dribbles_gets_408(server: Server, upstream: Upstream) -> None:
    start = HEAD + b"Content-Length: 500\r\n\r\n{"
    said = await exchange(server, start, *([b" "] * 30), pause_s=0.03)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"body did not arrive in time" in said
    assert upstream.requests == []


@pytest.mark.parametrize("pieces", [1, 20])
async def test_a_large_head_gets_431(server: Server, pieces: int) -> None:
    field = b"x-filler: " + b"y" * (6000 // pieces) + b"\r\n"
    said = await exchange(server, HEAD, *([field] * pieces), b"\r\n", pause_s=0.005)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b"larger than 4000 bytes" in said


async def test_a_large_head_in_one_piece_gets_431(server: Server) -> None:
    said = await exchange(server, HEAD + b"x: " + b"y" * 6000 + b"\r\nContent-Length: 0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 431 ")


async def test_a_large_body_gets_413_without_being_read(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(HEAD + b"Content-Length: 900000\r\n\r\n" + b" " * 70_000)
    said = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
    assert said.startswith(b"HTTP/1.1 413 ")
    await end(writer)


async def test_a_patient_client_is_served_many_times(server: Server) -> None:
    reader, writer = await connect(server)
    for _ in range(3):
        writer.write(request())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 ")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        await asyncio.sleep(0.8)  # longer than a head may take: idle is not slow
    await end(writer)


async def test_a_stream_that_nobody_reads_is_cancelled(
    server: Server, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.default = Script(words=("x" * 20_000,) * 4000)
    _, writer = await connect(server)
    writer.write(request(stream=True))
    await upstream.arrived(1)
    async with asyncio.timeout(20):
        while not (found := rows(tmp_path / "home" / "spool")):  # noqa: ASYNC110  # polls a file
            await asyncio.sleep(0.05)
    assert [row.status for row in found] == ["cancelled"]
    await end(writer)
