"""How every server process of ours starts, says that it is ready, and stops."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import click
import msgspec
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import HANDLED_SIGNALS

from fungible.errors import PortInUseError, UnavailableError


class Beside(NamedTuple):
    """Another application of the same process, at its own listening socket."""

    app: ASGIApp
    sock: socket.socket


def bind(host: str, port: int, *, shared: bool = False, listen: bool = True) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Args:
        host: Address, or name of one.
        port: TCP port.
        shared: Whether other processes of ours may listen there, too.
        listen: Whether connections are accepted; otherwise the port is only held.

    Raises:
        PortInUseError: Somebody else listens there.
        UnavailableError: The address cannot be bound at all.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"{host}:{port} is in use by another process",
                hint="stop that process, or choose another port (0 picks a free one)",
            ) from error
        raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    if listen:
        sock.listen(1024)
    return sock


def address_of(sock: socket.socket) -> str:
    """The URL at which a bound socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce(name: str, url: str, pid: int, **more: str) -> None:
    """Print the line that says that requests are answered."""
    line = {"event": "ready", "name": name, "url": url, "pid": pid, **more}
    click.echo(msgspec.json.encode(line).decode())


def check_free(host: str, port: int) -> None:
    """Raise what `bind` would raise, now instead of after minutes of other work."""
    bind(host, port).close()


def run_server(
    app: ASGIApp,
    sock: socket.socket,
    *,
    name: str,
    before_ready: Callable[[], None] | None = None,
    http: type[asyncio.Protocol] | None = None,
    beside: Mapping[str, Beside] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    What is served `beside` at ports of its own is named in the ready line, with its address.

    Prints one line of JSON when requests are answered: `{"event": "ready", "name", "url", "pid"}`.
    Children of a supervisor start as `cli/supervised.py`, which sends SIGTERM when it is gone.
    Endless responses end when `scope["extensions"]["fungible.stopping"]`, an `asyncio.Event`,
    is set: that is the moment the server begins to stop.
    """
    beside = beside or {}
    by_port = {one.sock.getsockname()[1]: one.app for one in beside.values()}
    stopping = asyncio.Event()
    server = _Server(
        uvicorn.Config(
            _announcing(_by_port(app, by_port), stopping),
            log_level="warning",
            access_log=False,
            # Nothing reads the client's address, so no header about it is believed.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            ws="none",
            http=http or "auto",
        ),
        stopping,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, sock, name, beside, before_ready))


class _Server(uvicorn.Server):
    """Says that it stops before it waits for open responses to end, then returns to its caller."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end `serve`, no more.

        uvicorn's own raises them again afterwards, which would end the process before its
        callers could close the ledger and withdraw what they announced.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _by_port(app: ASGIApp, others: Mapping[int, ASGIApp]) -> ASGIApp:
    """`others` at their own ports, `app` everywhere else."""

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server") or ("", 0)
        chosen = others.get(server[1], app) if scope["type"] == "http" else app
        await chosen(scope, receive, send)

    return routed


def _announcing(app: ASGIApp, stopping: asyncio.Event) -> ASGIApp:
    async def announced(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})["fungible.stopping"] = stopping
        await app(scope, receive, send)

    return announced


async def _serve(
    server: uvicorn.Server,
    sock: socket.socket,
    name: str,
    beside: Mapping[str, Beside],
    before_ready: Callable[[], None] | None,
) -> None:
    sockets = [sock, *(one.sock for one in beside.values())]
    serving = asyncio.create_task(server.serve(sockets=sockets))
    while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event
        await asyncio.sleep(0.01)
    if server.started:
        if before_ready is not None:
            before_ready()
        urls = {other: address_of(one.sock) for other, one in beside.items()}
        announce(name, address_of(sock), os.getpid(), **urls)
    await serving
