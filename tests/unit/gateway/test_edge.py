"""The data port's connections: requests cut anywhere, sent ahead, malformed, or given up."""

import asyncio
import itertools
from collections.abc import Sequence

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from fungible.config import GatewaySettings
from fungible.errors import ClientGoneError, FungibleError
from fungible.gateway import edge as edge_module
from fungible.gateway.call import Call
from support.edge import MemoryTransport, connect

LIMIT = 5000


class Answers:
    """Answers in a stream of bytes."""

    def __init__(self, data: bytes, methods: Sequence[str] = ()) -> None:
        self.found: list[tuple[int, dict[str, str], bytes]] = []
        self._methods = list(methods)
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if (status := self._parser.get_status_code()) != 100:
            self.found.append((status, self.headers, self.body))


class Echo:
    """Answers with method, path and body; `streamed` in pieces. Keeps the calls."""

    def __init__(self, *, streamed: bool = False, waits: bool = False) -> None:
        self.calls: list[Call] = []
        self.problems: list[FungibleError] = []
        self.go = asyncio.Event()
        self._streamed = streamed
        if not waits:
            self.go.set()

    async def __call__(self, call: Call) -> None:
        self.calls.append(call)
        try:
            body = await call.body(LIMIT)
        except ClientGoneError as error:
            self.problems.append(error)
            return
        except FungibleError as error:
            self.problems.append(error)
            call.fail(error)
            return
        await self.go.wait()
        said = f"{call.method} {call.path} ".encode() + body
        if not self._streamed:
            call.respond(200, [], said)
            return
        call.start(200, [])
        for at in range(0, len(said), 7):
            call.write(said[at : at + 7])
        call.end(b"")


async def settle(server: ServerState) -> None:
    for _ in range(50):
        if not server.tasks:
            break
        await asyncio.wait(set(server.tasks), timeout=5)
    await asyncio.sleep(0)


async def said(
    echo: Echo, *pieces: bytes, settings: GatewaySettings | None = None
) -> tuple[bytes, MemoryTransport]:
    """What a connection says to these pieces, each delivered when it reads."""
    server = ServerState()
    edge, transport = connect(echo, settings, server)
    for piece in pieces:
        while not transport.reading and server.tasks:  # noqa: ASYNC110  # as a loop would
            await asyncio.sleep(0)
        edge.data_received(piece)
        await asyncio.sleep(0)
    await settle(server)
    return transport.written, transport


def request(path: str, body: bytes, chunks: Sequence[int] = (), more: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%b" % (path.encode(), more)
    if not chunks:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    pieces, at = [], 0
    for size in chunks:
        if part := body[at : at + size]:
            pieces.append(b"%x\r\n%b\r\n" % (len(part), part))
        at += size
    if rest := body[at:]:
        pieces.append(b"%x\r\n%b\r\n" % (len(rest), rest))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(pieces) + b"0\r\n\r\n"


REQUESTS = st.lists(
    st.tuples(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=4)),
    min_size=1,
    max_size=5,
)


@given(requests=REQUESTS, cuts=st.lists(st.integers(0, 2000), max_size=12), streamed=st.booleans())
@settings(max_examples=150, deadline=None)
def test_requests_cut_anywhere_are_answered_in_order(
    requests: list[tuple[bytes, list[int]]], cuts: list[int], streamed: bool
) -> None:
    data = b"".join(
        request(f"/v1/{at}", body, chunks) for at, (body, chunks) in enumerate(requests)
    )
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges) if a < b]

    async def run() -> None:
        written, transport = await said(Echo(streamed=streamed), *pieces)
        assert [(status, body) for status, _, body in Answers(written).found] == [
            (200, b"POST /v1/%d %b" % (at, body)) for at, (body, _) in enumerate(requests)
        ]
        assert not transport.is_closing()
        assert transport.reading

    asyncio.run(run())


WHOLE = request("/v1/a", b"hello", more=b"X-A: b\r\n") + request("/v1/b", b"hello you", [2, 3])


@given(
    at=st.integers(0, len(WHOLE) - 1),
    byte=st.integers(0, 255),
    cut=st.integers(0, len(WHOLE)),
    tail=st.binary(max_size=40),
)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_answered_or_refused(at: int, byte: int, cut: int, tail: bytes) -> None:
    data = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :] + tail

    async def run() -> None:
        echo, server = Echo(), ServerState()
        edge, transport = connect(echo, None, server)
        for piece in (data[:cut], data[cut:]):
            edge.data_received(piece)
            for _ in range(10):
                await asyncio.sleep(0)
        transport.lose()
        await settle(server)
        assert not server.tasks
        assert not server.connections
        found = Answers(transport.written).found if transport.written else []
        assert {status for status, *_ in found} <= {200, 400, 413}
        for status, headers, _ in found[:-1]:
            assert (status, headers.get("connection")) == (200, None)
        # Every call was answered, or its client left in the middle of its body.
        assert all(call.ended or call.gone for call in echo.calls)

    asyncio.run(run())


@given(data=st.binary(min_size=1, max_size=200))
@settings(max_examples=150, deadline=None)
def test_bytes_that_are_no_request_get_400_once(data: bytes) -> None:
    async def run() -> None:
        echo = Echo()
        written, transport = await said(echo, b"\x00" + data, data)
        assert echo.calls == []
        ((status, headers, body),) = Answers(written).found
        assert (status, headers["connection"]) == (400, "close")
        assert b"this is not HTTP/1.1" in body
        assert transport.is_closing()

    asyncio.run(run())


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\nhost: x\n bad\n\n\x01",
    ],
)
async def test_what_could_be_understood_in_two_ways_is_refused(data: bytes) -> None:
    echo = Echo()
    written, transport = await said(echo, data)
    assert [status for status, *_ in Answers(written).found] == [400]
    assert transport.is_closing()
    assert echo.calls == []


async def test_a_body_that_turns_into_something_else_fails_its_call() -> None:
    echo = Echo()
    head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
    written, transport = await said(echo, head, b"zzz\r\n")
    ((status, headers, body),) = Answers(written).found
    assert (status, headers["connection"]) == (400, "close")
    assert b"not valid HTTP/1.1" in body
    assert transport.is_closing()


async def test_garbage_after_a_request_does_not_cost_its_answer() -> None:
    written, transport = await said(Echo(streamed=True), request("/a", b"x") + b"\x00\x01")
    ((status, headers, body),) = Answers(written).found
    assert (status, body) == (200, b"POST /a x")
    assert headers["connection"] == "close"
    assert transport.is_closing()


async def test_a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection() -> None:
    data = b"POST /a HTTP/1.0\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\nx"
    written, transport = await said(Echo(streamed=True), data)
    head, _, body = written.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"POST /a x"
    assert transport.is_closing()


async def test_a_head_request_gets_a_head() -> None:
    written, _ = await said(Echo(), b"HEAD /a%20b?c=d HTTP/1.1\r\nhost: x\r\n\r\n")
    head, _, body = written.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len("HEAD /a b ") in head
    assert body == b""


async def test_connection_close_is_kept_to_and_what_follows_is_not_heard() -> None:
    echo = Echo()
    one = request("/a", b"x", more=b"Connection: close\r\n")
    written, transport = await said(echo, one + request("/b", b"y"))
    ((_, headers, body),) = Answers(written).found
    assert (headers["connection"], body) == ("close", b"POST /a x")
    assert transport.is_closing()


async def test_who_expects_100_is_told_to_go_on() -> None:
    head = b"POST /a HTTP/1.1\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n"
    written, _ = await said(Echo(), head, b"x")
    assert written.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    ((status, _, body),) = Answers(written).found
    assert (status, body) == (200, b"POST /a x")
    written, _ = await said(Echo(), head + b"x")
    assert b"100 Continue" not in written


async def test_another_protocol_is_not_spoken() -> None:
    data = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    written, transport = await said(Echo(), data + b"\x81\x05hello")
    ((status, headers, body),) = Answers(written).found
    assert (status, headers["connection"], body) == (200, "close", b"GET /a ")
    assert transport.is_closing()


async def test_trailers_are_no_headers() -> None:
    echo = Echo()
    data = request("/a", b"x", [1])[:-2] + b"x-fungible-customer: evil\r\n\r\n"
    await said(echo, data)
    assert echo.calls[0].own_headers() == {}


async def test_a_large_body_is_refused_and_the_next_request_is_heard() -> None:
    written, transport = await said(
        Echo(), request("/a", b"x" * LIMIT * 2), request("/b", b"y"), request("/c", b"z" * LIMIT)
    )
    statuses = [(status, body[:9]) for status, _, body in Answers(written).found]
    assert statuses[0][0] == 413
    assert statuses[1:] == [(200, b"POST /b y"), (200, b"POST /c z")]
    assert not transport.is_closing()


async def test_what_is_sent_before_it_is_asked_for_waits_on_the_clients_side() -> None:
    server = ServerState()

    async def never(call: Call) -> None:
        await asyncio.sleep(0)
        call.respond(401, [], b"no")

    edge, transport = connect(never, None, server)
    edge.data_received(b"POST /a HTTP/1.1\r\ncontent-length: 900000\r\n\r\n" + b"x" * 70_000)
    assert not transport.reading
    await settle(server)
    assert transport.reading, "the rest is read, and dropped"
    for _ in range(90):
        edge.data_received(b"x" * 10_000 if _ < 83 else b"")
    edge.data_received(request("/b", b"y"))
    await settle(server)
    assert [status for status, *_ in Answers(transport.written).found] == [401, 401]


async def test_requests_sent_ahead_wait_and_a_client_that_left_gets_none_answered() -> None:
    echo, server = Echo(waits=True), ServerState()
    edge, transport = connect(echo, None, server)
    edge.data_received(b"".join(request(f"/{at}", b"x") for at in range(3)))
    await asyncio.sleep(0)
    assert len(echo.calls) == 1
    assert not transport.reading
    left: list[str] = []
    echo.calls[0].on_left = lambda: left.append("left")
    transport.lose()
    echo.go.set()
    await settle(server)
    assert left == ["left"]
    assert len(echo.calls) == 1
    assert transport.written == b""


async def test_a_client_that_leaves_in_its_body_ends_its_call() -> None:
    echo, server = Echo(), ServerState()
    edge, transport = connect(echo, None, server)
    edge.data_received(b"POST /a HTTP/1.1\r\ncontent-length: 5\r\n\r\nab")
    await asyncio.sleep(0)
    transport.lose()
    await settle(server)
    assert isinstance(echo.problems[0], ClientGoneError)
    assert (transport.written, server.connections) == (b"", set())


async def test_a_head_that_is_too_large_does_not_cut_the_answer_before_it() -> None:
    echo, server = Echo(waits=True, streamed=True), ServerState()
    small = GatewaySettings(max_header_bytes=1000)
    edge, transport = connect(echo, small, server)
    edge.data_received(request("/a", b"x"))
    await asyncio.sleep(0)
    edge.data_received(b"GET /b HTTP/1.1\r\nx: " + b"y" * 2000)
    echo.go.set()
    await settle(server)
    ((status, headers, body),) = Answers(transport.written).found
    assert (status, body, headers["connection"]) == (200, b"POST /a x", "close")
    assert transport.is_closing()


async def test_a_stop_lets_answers_end_and_closes_what_is_idle() -> None:
    echo, server = Echo(waits=True), ServerState()
    idle, idle_transport = connect(echo, None, server)
    busy, busy_transport = connect(echo, None, server)
    busy.data_received(request("/a", b"x") + request("/b", b"y"))
    await asyncio.sleep(0)
    idle.shutdown()
    busy.shutdown()
    await asyncio.sleep(0)
    assert idle_transport.is_closing()
    assert not busy_transport.is_closing()
    echo.go.set()
    await settle(server)
    assert [body for *_, body in Answers(busy_transport.written).found] == [
        b"POST /a x",
        b"POST /b y",
    ]
    assert busy_transport.is_closing()
    await asyncio.sleep(0)
    assert server.connections == set()


async def test_a_task_that_ends_without_an_answer_ends_the_connection() -> None:
    server = ServerState()

    async def cancelled(call: Call) -> None:
        del call
        raise asyncio.CancelledError

    edge, transport = connect(cancelled, None, server)
    edge.data_received(request("/a", b"x"))
    await settle(server)
    assert transport.is_closing()
    assert transport.written == b""


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb", b"a\0b"])
async def test_a_header_cannot_end_its_line(value: bytes) -> None:
    problems: list[ValueError] = []

    async def inject(call: Call) -> None:
        try:
            call.respond(200, [(b"x-a", value)], b"")
        except ValueError as error:
            problems.append(error)
            call.respond(500, [], b"")

    written, _ = await said(inject, request("/a", b"x"))  # type: ignore[arg-type]
    assert len(problems) == 1
    assert [status for status, *_ in Answers(written).found] == [500]


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge_module, "KEEP_ALIVE_S", 0.05)
    short = GatewaySettings(header_timeout_s=0.05, body_timeout_s=0.05)
    echo, server = Echo(waits=True), ServerState()
    edge, transport = connect(echo, short, server)
    edge.data_received(request("/a", b"x"))
    await asyncio.sleep(0.2)
    assert not transport.is_closing(), "it waits for us"
    echo.go.set()
    async with asyncio.timeout(10):
        while not transport.is_closing():  # noqa: ASYNC110  # a test can poll
            await asyncio.sleep(0.01)
    assert [status for status, *_ in Answers(transport.written).found] == [200]
