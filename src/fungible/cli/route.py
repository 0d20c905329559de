"""`fungible route`: who may serve, and who does."""

from pathlib import Path

import click
import msgspec

from fungible.cli.options import common_options, locate_config
from fungible.config import Config, load_config
from fungible.control.client import ControlClient
from fungible.errors import UnavailableError
from fungible.routing.table import Route, RouteTable, decode_table, initial_table


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One model: the file's weights beside the active ones; `None` where there is no route."""

    model: str
    file: dict[str, float] | None
    active: dict[str, float] | None
    same: bool
    shadow: str = ""


@click.group()
def route() -> None:
    """Who may serve (the file), and who does (the active route table)."""


@route.command()
@common_options
def show(*, home: Path | None, config_path: Path | None, as_json: bool) -> None:
    """The active routes."""
    table = _active(load_config(locate_config(home, config_path)))
    if as_json:
        click.echo(msgspec.json.encode(table).decode())
        return
    click.echo(f"version {table.version}: {table.reason}", err=True)
    for model, active in table.routes.items():
        click.echo(f"{model}  {_describe(active)}")


@route.command()
@common_options
def diff(*, home: Path | None, config_path: Path | None, as_json: bool) -> None:
    """The file's starting weights beside the active ones."""
    config = load_config(locate_config(home, config_path))
    table = _active(config)
    wanted = initial_table(config).routes
    rows = [
        _difference(model, wanted.get(model), table.routes.get(model))
        for model in sorted(wanted.keys() | table.routes.keys())
    ]
    if as_json:
        click.echo(msgspec.json.encode({"version": table.version, "routes": rows}).decode())
        return
    for row in rows:
        if row.same:
            click.echo(f"{row.model}  as the file says: {_weights(row.active)}")
        else:
            click.echo(f"{row.model}  file {_weights(row.file)}  active {_weights(row.active)}")


def _active(config: Config) -> RouteTable:
    """From a running control; else the file that it left; else what a first start would use."""
    try:
        return ControlClient(config).get("/api/routes", RouteTable)
    except UnavailableError:
        path = config.home_path() / "run" / "routes.json"
        if not path.exists():
            return initial_table(config)
        return decode_table(path.read_bytes(), str(path))


def _difference(model: str, wanted: Route | None, active: Route | None) -> Difference:
    file = wanted.weights if wanted else None
    now = active.weights if active else None
    shadow = active.shadow.backend if active and active.shadow else ""
    return Difference(model=model, file=file, active=now, same=file == now, shadow=shadow)


def _describe(route: Route) -> str:
    parts = [_weights(route.weights), f"reference {route.reference}"]
    if route.shadow:
        parts.append(f"shadow {route.shadow.backend} {route.shadow.share:.0%}")
    if route.fallback:
        parts.append(f"fallback {', '.join(route.fallback)}")
    return "  ".join(parts)


def _weights(weights: dict[str, float] | None) -> str:
    if not weights:
        return "nobody"
    total = sum(weights.values()) or 1.0
    return ", ".join(f"{name} {weight / total:.0%}" for name, weight in weights.items())
