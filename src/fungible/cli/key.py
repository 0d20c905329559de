"""`fungible key`: make API keys."""

import hashlib
import secrets

import click
import msgspec


@click.group()
def key() -> None:
    """Make API keys."""


@key.command()
@click.option("--name", default="my-key", show_default=True, help="Name of the table.")
@click.option("--customer", default="", help="Whom the spend is for.")
@click.option("--feature", default="", help="Which product feature it is for.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data.")
def new(*, name: str, customer: str, feature: str, as_json: bool) -> None:
    """Make a key and show it once; only its hash belongs in fungible.toml."""
    secret = f"fk-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    if as_json:
        click.echo(msgspec.json.encode({"name": name, "key": secret, "hash": digest}).decode())
        return
    click.echo(secret)
    lines = [f"[key.{name}]", f'hash = "{digest}"']
    lines += [f'customer = "{customer}"'] if customer else []
    lines += [f'feature = "{feature}"'] if feature else []
    click.echo("\nThe key is shown this once. For fungible.toml:\n\n" + "\n".join(lines), err=True)
