"""`fungible control`: own the ledger, the routes and the page."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from fungible.cli.options import config_option
from fungible.cli.serve import Beside, address_of, bind, run_server
from fungible.config import Config, load_config
from fungible.control.app import Control, build_app
from fungible.control.auth import make_token
from fungible.control.clickhouse.app import Endpoint
from fungible.control.files import write_atomic
from fungible.control.lock import only_one
from fungible.dashboard.app import dashboard_routes
from fungible.ledger.access import ControlAddress
from fungible.ledger.clients import parse_dsn
from fungible.ledger.store import Store, open_store

# A control process whose supervisor was killed needs a moment to ship and close.
TAKEOVER_S = 15.0
LOOPBACK = "127.0.0.1"


@click.group()
def control() -> None:
    """Own the ledger, the routes and the page."""


@control.command()
@config_option
@click.option("--port", type=click.IntRange(0, 65535), help="Instead of the configured one.")
@click.option("--clickhouse-port", type=click.IntRange(0, 65535), help="The same for the endpoint.")
@click.option("--json", "as_json", is_flag=True, help="Errors as JSON on stdout, too.")
def serve(
    *, config_path: Path, port: int | None, clickhouse_port: int | None, as_json: bool
) -> None:
    """Serve the control API and the page until SIGINT or SIGTERM.

    Prints one line of JSON with the addresses when it is ready.
    """
    del as_json  # read by the error reporter
    config = load_config(config_path)
    settings = config.control
    port = settings.port if port is None else port
    if clickhouse_port is None:
        clickhouse_port = settings.clickhouse_port(port)
    with contextlib.ExitStack() as held:
        run = config.home_path() / "run"
        held.enter_context(only_one(run / "control.lock", "control", wait_s=TAKEOVER_S))
        sock = held.enter_context(bind(settings.host, port))
        beside = None
        if _serves_clickhouse(config):
            beside = held.enter_context(bind(LOOPBACK, clickhouse_port))
        store = held.enter_context(contextlib.closing(open_store(config.ledger_dsn())))
        store.migrate()
        _run(config, store, sock, beside)


def _serves_clickhouse(config: Config) -> bool:
    return config.control.clickhouse.enabled and bool(parse_dsn(config.ledger_dsn()).path)


def _run(config: Config, store: Store, sock: socket.socket, beside: socket.socket | None) -> None:
    run = config.home_path() / "run"
    token = make_token(run / "control.token")
    parts = Control(config, store, token=token)
    app = build_app(parts, dashboard_routes(store, config))
    address = ControlAddress(url=address_of(sock), pid=os.getpid())
    with contextlib.ExitStack() as held:
        others = {}
        if beside is not None:
            dsn = parse_dsn(config.ledger_dsn())
            endpoint = Endpoint(dsn, config.control.clickhouse, token)
            others["clickhouse"] = Beside(held.enter_context(contextlib.closing(endpoint)), beside)
            address = msgspec.structs.replace(address, clickhouse=address_of(beside))
        announce = held.enter_context(_announced(run / "control.json", address))
        run_server(app, sock, name="control", before_ready=announce, beside=others)


@contextlib.contextmanager
def _announced(path: Path, address: ControlAddress) -> Iterator[Callable[[], None]]:
    try:
        yield lambda: write_atomic(path, msgspec.json.encode(address))
    finally:
        path.unlink(missing_ok=True)
