"""`fungible control`: own the ledger, the routes and the page."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from fungible.cli.options import config_option
from fungible.cli.serve import bind, run_server
from fungible.config import Config, load_config
from fungible.control.app import Control, build_app
from fungible.control.auth import make_token
from fungible.control.files import write_atomic
from fungible.control.lock import only_one
from fungible.dashboard.app import dashboard_routes
from fungible.ledger.access import ControlAddress
from fungible.ledger.store import Store, open_store

# A control process whose supervisor was killed needs a moment to ship and close.
TAKEOVER_S = 15.0


@click.group()
def control() -> None:
    """Own the ledger, the routes and the page."""


@control.command()
@config_option
@click.option("--port", type=click.IntRange(0, 65535), help="Instead of the configured one.")
@click.option("--json", "as_json", is_flag=True, help="Errors as JSON on stdout, too.")
def serve(*, config_path: Path, port: int | None, as_json: bool) -> None:
    """Serve the control API and the page until SIGINT or SIGTERM.

    Prints one line of JSON with the address when it is ready.
    """
    del as_json  # read by the error reporter
    config = load_config(config_path)
    run = config.home_path() / "run"
    with (
        only_one(run / "control.lock", "control", wait_s=TAKEOVER_S),
        bind(config.control.host, config.control.port if port is None else port) as sock,
        contextlib.closing(open_store(config.ledger_dsn())) as store,
    ):
        store.migrate()
        _run(config, store, sock)


def _run(config: Config, store: Store, sock: socket.socket) -> None:
    run = config.home_path() / "run"
    parts = Control(config, store, token=make_token(run / "control.token"))
    app = build_app(parts, dashboard_routes(store, config))
    with _announced(run / "control.json", sock) as announce:
        run_server(app, sock, name="control", before_ready=announce)


@contextlib.contextmanager
def _announced(path: Path, sock: socket.socket) -> Iterator[Callable[[], None]]:
    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    address = ControlAddress(url=url, pid=os.getpid())
    try:
        yield lambda: write_atomic(path, msgspec.json.encode(address))
    finally:
        path.unlink(missing_ok=True)
