"""`fungible migrate`: move traffic by evidence."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fungible.cli.options import common_options, locate_config
from fungible.config import load_config
from fungible.control.client import ControlClient
from fungible.errors import InputError, UnavailableError
from fungible.migrate.plan import MigrationPlan
from fungible.migrate.states import Migration

_POLL_S = 0.5
_PATIENCE_S = 30.0
_EXIT = {"promoted": 0, "rolled_back": 1, "refused": 3}


class _All(msgspec.Struct):
    data: list[Migration]


@click.group()
def migrate() -> None:
    """Move traffic to a candidate by evidence, and back if it does not hold.

    Needs a running `fungible up`. Exit codes: 0 promoted, 1 rolled back, 3 refused.
    """


@migrate.command()
@click.argument("model")
@click.argument("candidate")
@common_options
def plan(
    *, model: str, candidate: str, home: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Say whether CANDIDATE may start for MODEL, and what it would have to show."""
    client = _client(home, config_path)
    body = {"model": model, "candidate": candidate}
    shown = client.post("/api/migrations/plan", body, MigrationPlan)
    if as_json:
        click.echo(msgspec.json.encode(shown).decode())
    else:
        _print_plan(shown)
    if shown.refusal is not None:
        sys.exit(_EXIT["refused"])


@migrate.command()
@click.argument("model")
@click.argument("candidate")
@click.option("--detach", is_flag=True, help="Return once it has started.")
@common_options
def start(
    *,
    model: str,
    candidate: str,
    detach: bool,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Move MODEL to CANDIDATE and follow until it is promoted or rolled back.

    Ctrl-C stops following, not the migration.
    """
    client = _client(home, config_path)
    started = client.post("/api/migrations", {"model": model, "candidate": candidate}, Migration)
    click.echo(f"migration {started.migration_id}: {started.state}", err=True)
    ended = started if detach else _follow(client, started)
    _show(ended, as_json=as_json)
    sys.exit(0 if detach else _EXIT[ended.state])


@migrate.command()
@click.argument("model", required=False)
@click.argument("candidate", required=False)
@common_options
def status(
    *,
    model: str | None,
    candidate: str | None,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Migrations and where they stand, newest first."""
    found = [
        item
        for item in _client(home, config_path).get("/api/migrations", _All).data
        if model in (None, item.model) and candidate in (None, item.candidate)
    ]
    if as_json:
        click.echo(msgspec.json.encode({"data": found}).decode())
        return
    for item in found:
        click.echo(_line(item))
    if not found:
        click.echo("no migrations yet", err=True)


@migrate.command()
@click.argument("model")
@click.argument("candidate")
@click.option("--reason", default="", help="Kept with the evidence.")
@common_options
def rollback(
    *,
    model: str,
    candidate: str,
    reason: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Turn the running migration of MODEL to CANDIDATE back, now."""
    client = _client(home, config_path)
    running = [
        item
        for item in client.get("/api/migrations", _All).data
        if item.active and (item.model, item.candidate) == (model, candidate)
    ]
    if not running:
        raise InputError(
            f"no migration of {model} to {candidate} is running",
            hint="see `fungible migrate status`",
        )
    path = f"/api/migrations/{running[0].migration_id}/rollback"
    _show(client.post(path, {"reason": reason}, Migration), as_json=as_json)


def _client(home: Path | None, config_path: Path | None) -> ControlClient:
    return ControlClient(load_config(locate_config(home, config_path)))


def _follow(client: ControlClient, started: Migration) -> Migration:
    """Poll until it ends, with its numbers on a terminal and a line per edge elsewhere."""
    console = Console(stderr=True)
    last = started
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(_line(started), total=1.0)
        for now in _states(client, started):
            bars.update(task, description=_line(now), completed=_done(now))
            if (now.state, now.step) != (last.state, last.step):
                bars.console.print(_line(now), markup=False, highlight=False)
            last = now
    return last


def _states(client: ControlClient, started: Migration) -> Iterator[Migration]:
    """The migration again and again; outlives a restart of control."""
    path, now = f"/api/migrations/{started.migration_id}", started
    answered = time.monotonic()
    while now.active:
        time.sleep(_POLL_S)
        try:
            now = client.get(path, Migration)
        except UnavailableError:
            if time.monotonic() - answered > _PATIENCE_S:
                raise
            continue
        answered = time.monotonic()
        yield now


def _done(migration: Migration) -> float:
    """How far the evidence of this stage has come towards its threshold, 0 to 1."""
    policy, pairs = migration.policy, migration.evidence.get("pairs", 0.0)
    if migration.state == "shadow":
        return min(1.0, pairs / policy.shadow_min_pairs)
    attempts = migration.evidence.get("step_attempts", 0.0)
    return min(1.0, attempts / policy.canary_min_attempts)


def _line(migration: Migration) -> str:
    share = f" {migration.weight:.0%}" if migration.state == "canary" else ""
    head = f"{migration.model} -> {migration.candidate}: {migration.state}{share}"
    seen = migration.evidence
    if migration.active and "pairs" in seen:
        return (
            f"{head}, {seen['pairs']:.0f} pairs, E1 {seen['e_promote']:.3g} of "
            f"{migration.policy.promote_at:g}, E2 {seen['e_rollback']:.3g}"
        )
    return f"{head}: {migration.reason}" if migration.reason else head


def _show(migration: Migration, *, as_json: bool) -> None:
    click.echo(msgspec.json.encode(migration).decode() if as_json else _line(migration))


def _print_plan(shown: MigrationPlan) -> None:
    policy = shown.policy
    steps = ", ".join(f"{share:.0%}" for share in policy.canary_steps)
    verdict = shown.admission.verdict_id if shown.admission else "none needed: the reference"
    click.echo(f"{shown.model} -> {shown.candidate} (reference {shown.reference})")
    if shown.refusal is not None:
        click.echo(f"refused: {shown.refusal}")
        click.echo(f"hint: {shown.hint}", err=True)
        return
    click.echo(f"verdict   {verdict}")
    click.echo(
        f"shadow    {policy.shadow_share:.0%} of requests copied, margin "
        f"{policy.shadow_margin:g}, at least {shown.shadow_pairs} pairs"
    )
    click.echo(
        f"canary    {steps} of traffic, margin {policy.canary_margin:g}, "
        f"at least {shown.canary_pairs} pairs and {policy.canary_min_attempts} attempts a step"
    )
