"""`fungible key`: make API keys, and look at those that the configuration has."""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from fungible.cli.options import common_options, locate_config
from fungible.config import Config, KeySettings, LimitSettings, expiry_of, load_config
from fungible.config.limits import check_limits
from fungible.errors import InputError


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown: its name and the first digits of its hash, never the secret."""

    name: str
    id: str
    owner: str
    customer: str
    feature: str
    models: list[str]
    expires: str
    expired: bool
    limits: dict[str, Any]


@click.group()
def key() -> None:
    """Make API keys, and look at those that the configuration has."""


@key.command()
@click.option("--name", default="my-key", show_default=True, help="Name of the table.")
@click.option("--owner", default="", help="Team that answers for the spend.")
@click.option("--customer", default="", help="Whom the spend is for.")
@click.option("--feature", default="", help="Which product feature it is for.")
@click.option("--model", "models", multiple=True, help="A model it may ask for; again for more.")
@click.option("--expires", default="", help="ISO date or time, such as 2027-01-31T18:00+01:00.")
@click.option("--requests-per-minute", type=click.IntRange(0), default=0)
@click.option("--tokens-per-minute", type=click.IntRange(0), default=0)
@click.option("--budget-per-day", default="", help="Amount in the price sheet's currency.")
@click.option("--budget-per-month", default="")
@click.option("--budget-total", default="")
@click.option("--on-store-failure", type=click.Choice(["open", "closed"]), default="closed")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data.")
def new(*, name: str, models: tuple[str, ...], as_json: bool, **fields: str | int) -> None:
    """Make a key and show it once; only its hash belongs in fungible.toml."""
    secret = f"fk-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    given = {part: fields.pop(part) for part in LimitSettings.__struct_fields__}
    limits = msgspec.convert(given, LimitSettings)
    settings = msgspec.convert({"hash": digest, "models": models, **fields}, KeySettings)
    expiry_of("--expires", settings)
    check_limits("command line", Config().limits, {}, {name: limits})
    if as_json:
        line = {"name": name, "key": secret, "hash": digest, "toml": _toml(name, settings, limits)}
        click.echo(msgspec.json.encode(line).decode())
        return
    click.echo(secret)
    text = _toml(name, settings, limits)
    click.echo(f"\nThe key is shown this once. For fungible.toml:\n\n{text}", err=True)


@key.command(name="list")
@common_options
def list_keys(*, home: Path | None, config_path: Path | None, as_json: bool) -> None:
    """The keys of the configuration."""
    views = _views(load_config(locate_config(home, config_path)))
    if as_json:
        click.echo(msgspec.json.encode(views).decode())
        return
    for view in views:
        who = ", ".join(filter(None, (view.owner, view.customer, view.feature))) or "-"
        ends = f"{'expired' if view.expired else 'expires'} {view.expires}" if view.expires else ""
        click.echo(f"{view.name}  {view.id}  {who}  {ends}".rstrip())


@key.command()
@click.argument("name")
@common_options
def show(*, name: str, home: Path | None, config_path: Path | None, as_json: bool) -> None:
    """One key of the configuration, with its limits."""
    views = {view.name: view for view in _views(load_config(locate_config(home, config_path)))}
    if name not in views:
        known = ", ".join(sorted(views)) or "none"
        raise InputError(f"no key {name!r} is configured", hint=f"configured: {known}")
    view = views[name]
    if as_json:
        click.echo(msgspec.json.encode(view).decode())
        return
    for field in view.__struct_fields__:
        value = getattr(view, field)
        if isinstance(value, dict):
            for part, amount in value.items():
                click.echo(f"{part}  {amount}")
        elif value or field == "expired":
            click.echo(f"{field}  {', '.join(value) if isinstance(value, list) else value}")


def _views(config: Config) -> list[KeyView]:
    return [_view(name, settings) for name, settings in sorted(config.key.items())]


def _view(name: str, settings: KeySettings) -> KeyView:
    ends = expiry_of(f"key.{name}", settings)
    return KeyView(
        name=name,
        id=settings.hash[:12],
        owner=settings.owner,
        customer=settings.customer,
        feature=settings.feature,
        models=settings.models,
        expires=settings.expires,
        expired=ends is not None and datetime.now(UTC) >= ends,
        limits=_set(settings.limits) if settings.limits else {},
    )


def _set(settings: LimitSettings) -> dict[str, Any]:
    """The fields that limit anything."""
    values = msgspec.structs.asdict(settings)
    mode = values.pop("on_store_failure")
    found = {field: value for field, value in values.items() if value}
    return found | {"on_store_failure": mode} if found else {}


def _toml(name: str, settings: KeySettings, limits: LimitSettings) -> str:
    values = msgspec.structs.asdict(settings)
    # JSON's strings, numbers and lists of strings are TOML's too.
    lines = [f"[key.{name}]"]
    lines += [f"{field} = {json.dumps(value)}" for field, value in values.items() if value]
    if found := _set(limits):
        lines += [f"[key.{name}.limits]"]
        lines += [f"{field} = {json.dumps(value)}" for field, value in found.items()]
    return "\n".join(lines)
