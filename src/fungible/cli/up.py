"""`fungible up`: gateway, control and engines from one file."""

import asyncio
import contextlib
import signal
from pathlib import Path

import click
import msgspec

from fungible.cli.options import common_options, locate_config
from fungible.cli.serve import check_free
from fungible.config import load_config
from fungible.control.supervisor import Supervisor


@click.command()
@common_options
def up(*, home: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Start gateway, control and engines, and keep them up until Ctrl-C.

    Uses ./fungible.toml, then .fungible/fungible.toml, unless --config or --home says otherwise.
    With --json, prints one line when everything answers:
    {"event": "ready", "gateway", "control", "clickhouse", "backends", "home"}.
    """
    path = locate_config(home, config_path)
    config = load_config(path)
    for server in (config.gateway, config.control):
        check_free(server.host, server.port)
    if config.control.clickhouse.enabled and not config.ledger.dsn.startswith("clickhouse"):
        check_free("127.0.0.1", config.control.clickhouse_port(config.control.port))
    supervisor = Supervisor(config, path, progress=_say)
    asyncio.run(_run(supervisor, as_json=as_json))


async def _run(supervisor: Supervisor, *, as_json: bool) -> None:
    """Until the first signal, which also interrupts a start that is under way."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    starting = asyncio.create_task(supervisor.start())
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    try:
        await starting
        _announce(supervisor, as_json=as_json)
        await waiting
    finally:
        waiting.cancel()
        await supervisor.stop()


def _announce(supervisor: Supervisor, *, as_json: bool) -> None:
    backends = {name: backend.url for name, backend in supervisor.config.backend.items()}
    if as_json:
        line = {
            "event": "ready",
            "gateway": supervisor.gateway_url,
            "control": supervisor.control_url,
            "clickhouse": supervisor.clickhouse_url,
            "backends": backends,
            "home": supervisor.config.home,
        }
        click.echo(msgspec.json.encode(line).decode())
        return
    click.echo(f"gateway  {supervisor.gateway_url}/v1")
    click.echo(f"page     {supervisor.control_url}/")
    if supervisor.clickhouse_url:
        click.echo(f"sql      {supervisor.clickhouse_url}  (ClickHouse's HTTP; user fungible)")
    for name, url in backends.items():
        click.echo(f"backend  {name}  {url}".rstrip())
    click.echo("Ctrl-C stops everything.", err=True)


def _say(name: str, what: str) -> None:
    click.echo(f"{name}: {what}", err=True)
