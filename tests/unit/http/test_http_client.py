"""The client against a server whose every byte and every cut is ours."""

import asyncio
import gzip
import itertools
import shutil
import ssl
import subprocess
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from fungible.http import client as client_module
from fungible.http.client import Client, header_lines
from fungible.http.connection import MOST_HEADER_BYTES
from fungible.http.errors import ConnectionBrokenError, MalformedAnswerError
from support.raw_server import RawServer, Step

LIMIT = 64 << 20
BOMB = gzip.compress(b"0" * (80 << 20))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    one = Client(connect_timeout_s=2, idle_timeout_s=2)
    yield one
    await one.close()


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(line + b"\r\n" for line in headers)
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)


def chunked(*parts: bytes, headers: bytes = b"", end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + headers + b"\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


async def ask(client: Client, server: RawServer, body: bytes = b"{}") -> tuple[int, bytes]:
    answer = await client.post(f"{server.url}/v1/x?y=1", b"x-a: b\r\n", body)
    try:
        return answer.status, await answer.read(LIMIT)
    finally:
        answer.close()


async def test_what_is_written(client: Client) -> None:
    async with RawServer([whole(b"ok")]) as server:
        assert await ask(client, server, b'{"a": 1}') == (200, b"ok")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x?y=1 HTTP/1.1"
    assert {b"x-a: b", b"content-length: 8", b"accept-encoding: identity"} <= set(lines)
    assert b"host: " + server.url.removeprefix("http://").encode() in lines
    assert body == b'{"a": 1}'


async def test_a_connection_is_used_again_once_its_answer_was_read(client: Client) -> None:
    async with RawServer([whole(b"ok")]) as server:
        for _ in range(5):
            await ask(client, server)
        assert server.connections == 1
        await asyncio.gather(*(ask(client, server) for _ in range(4)))
        assert server.connections == 4


async def test_a_connection_whose_answer_was_not_read_is_dropped(client: Client) -> None:
    async with RawServer([chunked(b"a", end=b""), 30.0]) as server:
        answer = await client.post(server.url, b"", b"")
        assert await answer.piece() == b"a"
        answer.close()
        answer.close()
        await asyncio.wait_for(server.gone.wait(), 10)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_finished_answer_waits_for_its_end_but_not_for_ever(
    client: Client, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    monkeypatch.setattr(client_module, "LINGER_S", 0.3)
    script: list[Step] = [chunked(b"a", end=b""), 0.05, 30.0 if cut else b"0\r\n\r\n"]
    async with RawServer(script) as server:
        for at in range(2):
            answer = await client.post(f"{server.url}/v1/x", b"", b"{}")
            assert await answer.piece() == b"a"
            answer.finish()
            if cut:
                await asyncio.wait_for(server.gone.wait(), 10)
                server.gone.clear()
            else:
                await asyncio.sleep(0.2)
            assert server.connections == (at + 1 if cut else 1)


async def test_a_cancelled_request_drops_its_connection(client: Client) -> None:
    async with RawServer([30.0]) as server:
        asking = asyncio.create_task(ask(client, server))
        while not server.requests:  # noqa: ASYNC110  # until it has arrived
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait_for(server.gone.wait(), 10)


async def test_a_peer_that_closes_between_requests_costs_nothing(client: Client) -> None:
    async with RawServer([whole(b"ok")], close=True) as server:
        for _ in range(3):
            assert await ask(client, server) == (200, b"ok")
            await asyncio.sleep(0.05)
        assert server.connections == 3


@given(
    body=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 900), max_size=6),
    framing=st.sampled_from(["length", "chunked", "close", "gzip", "deflate", "interim"]),
)
async def test_any_framing_and_any_cut_give_the_same_body(
    body: bytes, cuts: list[int], framing: str
) -> None:
    half = len(body) // 2
    parts = [part for part in (body[:half], body[half:]) if part]
    packed = gzip.compress(body) if framing == "gzip" else zlib.compress(body)
    wire = {
        "length": whole(body),
        "chunked": chunked(*parts),
        "close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
        "gzip": chunked(packed, headers=b"content-encoding: gzip\r\n"),
        "deflate": whole(packed, b"Content-Encoding: deflate"),
        "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + whole(body),
    }[framing]
    at = sorted({0, *(cut for cut in cuts if cut < len(wire)), len(wire)})
    script: list[Step] = []
    for start, end in itertools.pairwise(at):
        script += [wire[start:end], 0.0]
    client = Client(connect_timeout_s=5, idle_timeout_s=5)
    async with RawServer(script, close=framing == "close") as server:
        assert await ask(client, server) == (200, body)
    await client.close()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([None], ConnectionBrokenError),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", None], ConnectionBrokenError),
        ([chunked(b"ab", end=b"5\r\nabc"), None], ConnectionBrokenError),
        ([b"SSH-2.0-OpenSSH\r\n"], MalformedAnswerError),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
            OSError,
        ),
        ([whole(b"x", b"content-encoding: br")], MalformedAnswerError),
        ([whole(b"not gzip", b"content-encoding: gzip")], MalformedAnswerError),
        (
            [whole(gzip.compress(b"0" * (80 << 20)), b"content-encoding: gzip")],
            MalformedAnswerError,
        ),
        ([b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"y" * MOST_HEADER_BYTES], OSError),
        ([b"HTTP/1.1 200 OK\r\n" + b"x-a: y\r\n" * (MOST_HEADER_BYTES // 4)], OSError),
        ([5.0], TimeoutError),
        ([chunked(b"a", end=b""), 5.0], TimeoutError),
    ],
    ids=[
        "reset",
        "cut length",
        "cut chunk",
        "not HTTP",
        "upgrade",
        "brotli",
        "not gzip",
        "bomb",
        "long header",
        "many headers",
        "silent",
        "falls silent",
    ],
)
async def test_what_breaks_has_a_name(script: list[Step], error: type[Exception]) -> None:
    client = Client(connect_timeout_s=2, idle_timeout_s=0.3)
    async with RawServer(script) as server:
        with pytest.raises(error):
            await ask(client, server)
        server.script = [whole(b"ok")]
        assert await ask(client, server) == (200, b"ok")
    await client.close()


async def test_silence_is_measured_between_pieces(client: Client) -> None:
    slow = Client(connect_timeout_s=2, idle_timeout_s=0.5)
    pieces: list[Step] = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]
    for _ in range(8):
        pieces += [0.2, b"1\r\na\r\n"]
    async with RawServer([*pieces, b"0\r\n\r\n"]) as server:
        assert await ask(slow, server) == (200, b"a" * 8)
    await slow.close()


async def test_a_reader_that_is_slow_does_not_fill_memory(client: Client) -> None:
    block = b"x" * (1 << 20)
    async with RawServer([chunked(*[block] * 40)]) as server:
        answer = await client.post(server.url, b"", b"")
        await asyncio.sleep(0.3)
        first = await answer.piece()
        assert len(first) < 4 << 20
        assert len(first) + len(await answer.read(LIMIT)) == 40 << 20
        answer.close()


async def test_reading_stops_at_the_limit(client: Client) -> None:
    async with RawServer([whole(b"x" * 100_000)]) as server:
        answer = await client.post(server.url, b"", b"")
        assert 1000 < len(await answer.read(1000)) <= 100_000
        answer.close()


async def test_an_answer_that_nobody_asked_for_is_not_the_next_ones(client: Client) -> None:
    async with RawServer([whole(b"first") + whole(b"smuggled")]) as server:
        assert await ask(client, server) == (200, b"first")
        await asyncio.sleep(0.05)
        assert await ask(client, server) == (200, b"first")
        assert server.connections == 2


def test_it_runs_on_the_loop_of_our_servers() -> None:
    async def work() -> None:
        client = Client(connect_timeout_s=2, idle_timeout_s=2)
        async with RawServer([chunked(b"a", b"b")]) as server:
            for _ in range(3):
                assert await ask(client, server) == (200, b"ab")
            assert server.connections == 1
        await client.close()

    uvloop.run(work())


async def test_nobody_listens(client: Client) -> None:
    async with RawServer([]) as server:
        url = server.url
    with pytest.raises(OSError, match="onnect"):
        await client.post(url, b"", b"")


@pytest.mark.parametrize("url", ["ftp://x/", "http:///x", "http://h/ü"])
async def test_an_address_that_cannot_be_used(client: Client, url: str) -> None:
    with pytest.raises(OSError, match="address"):
        await client.post(url, b"", b"")


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\n", "a\r", "a\0"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        header_lines({"x-a": value})


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_tls_is_checked(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(  # noqa: ASYNC221  # before anything else runs
        [*command, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    async with RawServer([whole(b"ok")], tls=served) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(client, server)
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(client_module, "_tls", lambda: trusting)
        assert await ask(client, server) == (200, b"ok")
        assert await ask(client, server) == (200, b"ok")


async def pushed(client: Client, server: RawServer, took: list[bytes]) -> None:
    answer = await client.post(server.url, b"", b"")
    try:
        await answer.push(took.append)
    finally:
        answer.close()


async def test_a_pushed_answer_is_the_same_and_frees_its_connection(client: Client) -> None:
    async with RawServer(
        [chunked(b"a", end=b""), 0.02, b"1\r\nb\r\n", 0.02, b"0\r\n\r\n"]
    ) as server:
        for _ in range(3):
            took: list[bytes] = []
            await pushed(client, server, took)
            assert b"".join(took) == b"ab"
        assert server.connections == 1


async def test_push_takes_over_from_piece(client: Client) -> None:
    async with RawServer([chunked(b"a", end=b""), 0.05, b"1\r\nb\r\n0\r\n\r\n"]) as server:
        answer = await client.post(server.url, b"", b"")
        took = [await answer.piece()]
        await answer.push(took.append)
        assert took == [b"a", b"b"]
        answer.close()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([chunked(b"a", end=b""), 0.02, None], ConnectionBrokenError),
        ([chunked(b"a", end=b""), 5.0], TimeoutError),
        ([chunked(b"a", end=b"zz\r\n")], MalformedAnswerError),
    ],
    ids=["reset", "silence", "malformed"],
)
async def test_a_pushed_answer_fails_as_a_pulled_one(
    script: list[Step], error: type[Exception]
) -> None:
    client = Client(connect_timeout_s=2, idle_timeout_s=0.3)
    async with RawServer(script) as server:
        took: list[bytes] = []
        with pytest.raises(error):
            await pushed(client, server, took)
        assert b"".join(took) in (b"a", b"")
    await client.close()


async def test_whoever_takes_may_refuse(client: Client) -> None:
    def take(_: bytes) -> None:
        raise LookupError

    async with RawServer([chunked(b"a", end=b""), 30.0]) as server:
        answer = await client.post(server.url, b"", b"")
        with pytest.raises(LookupError):
            await answer.push(take)
        answer.close()
        await asyncio.wait_for(server.gone.wait(), 10)


async def test_a_pushed_answer_can_be_held_up(client: Client) -> None:
    block = b"x" * (1 << 20)
    async with RawServer([chunked(*[block] * 16)]) as server:
        answer = await client.post(server.url, b"", b"")
        took = 0

        def take(piece: bytes) -> None:
            nonlocal took
            took += len(piece)
            answer.pause()

        pushing = answer.push(take)
        await asyncio.sleep(0.2)
        assert took < 4 << 20
        while not pushing.done():
            answer.resume()
            await asyncio.sleep(0)
        assert took == 16 << 20
        answer.close()
