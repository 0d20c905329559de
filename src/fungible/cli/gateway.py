"""`fungible gateway`: serve the contract in front of backends."""

import gc
from pathlib import Path

import click

from fungible.cli.options import config_option
from fungible.cli.serve import bind, run_server
from fungible.cli.workers import serve_workers
from fungible.config import Config, load_config
from fungible.errors import ConfigError
from fungible.gateway.app import build_gateway
from fungible.gateway.edge import edge_protocol
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher

# Objects that come to be, and stay, before garbage is looked for (700 by default).
YOUNG = 10_000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.group()
def gateway() -> None:
    """Serve the contract in front of backends."""


@gateway.command()
@config_option
@click.option("--port", type=click.IntRange(0, 65535), help="Instead of the configured one.")
@click.option("--workers", type=click.IntRange(1, 64), help="Instead of the configured number.")
@click.option("--worker", type=int, hidden=True, help="One of several: which.")
@click.option("--json", "as_json", is_flag=True, help="Errors as JSON on stdout, too.")
def serve(
    *,
    config_path: Path,
    port: int | None,
    workers: int | None,
    worker: int | None,
    as_json: bool,
) -> None:
    """Serve the OpenAI API until SIGINT or SIGTERM.

    Prints one line of JSON with the address when it is ready.
    """
    del as_json  # read by the error reporter
    config = load_config(config_path)
    count = workers or config.gateway.workers
    wanted = config.gateway.port if port is None else port
    if worker is None:
        _check_keys(config)
        if count > 1:
            serve_workers(config, config_path, wanted, count, say=_say)
            return
    with bind(config.gateway.host, wanted, shared=worker is not None) as sock:
        name = "gateway" if worker is None else f"gateway-{worker}"
        spool = SpoolWriter(config.spool_path(), name, max_bytes=config.ledger.max_spool_bytes)
        dispatcher = Dispatcher(config=config, spool=spool)
        app = build_gateway(config, dispatcher, spool, config_path)
        http = edge_protocol(app.serve, config.gateway)
        run_server(app, sock, name=name, before_ready=_collect_less, http=http)


def _collect_less() -> None:
    """Look for cyclic garbage less often, and never again among what is there now.

    Requests leave next to none, and looking for it took one part in fifteen of their time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def _say(what: str) -> None:
    click.echo(what, err=True)


def _check_keys(config: Config) -> None:
    """Without keys anybody may spend: fine on this machine, nowhere else."""
    if config.key:
        return
    if config.gateway.host not in _LOOPBACK:
        raise ConfigError(
            f"gateway.host is {config.gateway.host} and no [key.NAME] is configured",
            hint="add a key (`fungible key new`), or listen on 127.0.0.1",
        )
    click.echo("note: no keys are configured; every local request is accepted", err=True)
