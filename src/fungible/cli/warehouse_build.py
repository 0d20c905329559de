"""`fungible warehouse build`: the marts, by dbt."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Literal

import click
import msgspec

from fungible.cli.cost import find_config
from fungible.cli.options import common_options, config_option
from fungible.cli.progress import stage_progress
from fungible.cli.serve import bind, run_server
from fungible.cli.tables import print_json, print_table
from fungible.config import DEFAULT_HOME, Config, load_config
from fungible.errors import InputError, UnavailableError
from fungible.ledger.access import DirectAccess
from fungible.ledger.clients import parse_dsn
from fungible.warehouse.build import PASSED, Built, Job, Node
from fungible.warehouse.build import build as run_build
from fungible.warehouse.environment import find_dbt, find_project, project_digest
from fungible.warehouse.target import ENDPOINT_TOKEN, open_target
from fungible.warehouse.variables import encoded, of_price_book, variables_of


@click.command()
@click.option(
    "--target",
    type=click.Choice(["auto", "embedded", "server"]),
    default="auto",
    show_default=True,
    help="Refuse when ledger.dsn is not of this kind.",
)
@click.option("--select", default="", help="dbt's node selection, such as cost_by_customer+.")
@click.option("--exclude", default="", help="What not to build of it, such as test_type:unit.")
@click.option("--full-refresh", is_flag=True, help="Make every table again, not changed days only.")
@click.option("--vars", "variables", default="", help="dbt variables as YAML, such as cost_slos.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 64))
@common_options
def build(
    *,
    target: Literal["auto", "embedded", "server"],
    select: str,
    exclude: str,
    full_refresh: bool,
    variables: str,
    threads: int,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Build the marts and test them: dbt, unmodified, against the ledger.

    Works beside a running `fungible up`, when nothing runs, and against a server. Ends with 1
    when a model or a test failed.
    """
    config = _config(home, config_path)
    _check_target(config, target)
    options = []
    if select:
        # A test that also looks at a table that is not built now would find it out of date.
        options = ["--select", *select.split(), "--indirect-selection", "buildable"]
    given = variables_of(variables)
    options += ["--threads", str(threads)]
    folder = config.home_path().absolute() / "warehouse"
    folder.mkdir(parents=True, exist_ok=True)
    project = find_project()
    options += ["--exclude", *exclude.split()] if exclude else []
    if full_refresh or _upgraded(folder, project):
        options.append("--full-refresh")
    dbt = find_dbt(folder, project, lambda text: click.echo(text, err=True))
    with open_target(config, _written(config, folder)) as where, stage_progress() as report:
        known = of_price_book(config, where) | given
        job = Job(
            dbt=dbt,
            project=project,
            folder=folder,
            environment=where.variables(),
            options=[*options, "--vars", encoded(known)],
        )
        built = run_build(job, where.marts, lambda done, total: report("dbt", done, total))
    if as_json:
        print_json(built)
    else:
        _print(built)
    if built.ok and not (select or exclude):
        (folder / "project").write_text(project_digest(project), encoding="ascii")
    if not built.ok:
        raise click.exceptions.Exit(1)


@click.command(hidden=True)
@config_option
def endpoint(*, config_path: Path) -> None:
    """Have the embedded ledger open as a ClickHouse server until stopped; `build` starts this."""
    from fungible.control.clickhouse.app import Endpoint  # noqa: PLC0415  # heavy
    from fungible.control.lock import only_one  # noqa: PLC0415

    config = load_config(config_path)
    token = os.environ.get(ENDPOINT_TOKEN) or secrets.token_urlsafe(32)
    lock = config.home_path() / "run" / "control.lock"
    with (
        only_one(lock, "control"),
        bind("127.0.0.1", 0) as sock,
        contextlib.closing(DirectAccess(config)),
        contextlib.closing(
            Endpoint(parse_dsn(config.ledger_dsn()), config.control.clickhouse, token)
        ) as served,
    ):
        run_server(served, sock, name="clickhouse")


def _config(home: Path | None, config_path: Path | None) -> Config:
    """The configuration in use; where there is no home yet, an empty one."""
    base = home or DEFAULT_HOME
    try:
        return find_config(home, config_path)
    except InputError:
        if config_path is not None or base.exists():
            raise
    click.echo(f"there is no ledger yet: starting an empty one in {base}", err=True)
    return Config(home=str(base))


def _check_target(config: Config, target: str) -> None:
    found = "embedded" if parse_dsn(config.ledger_dsn()).path else "server"
    if target not in ("auto", found):
        raise UnavailableError(
            f"the ledger is {found}, not {target}", hint="ledger.dsn in fungible.toml says where"
        )


def _upgraded(folder: Path, project: Path) -> bool:
    """Whether the last whole build was of other models than these."""
    try:
        last = (folder / "project").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    if last == project_digest(project):
        return False
    click.echo("the models are not those of the last build: making every table again", err=True)
    return True


def _written(config: Config, folder: Path) -> Path:
    """The configuration as a file for a child process, with paths that hold from anywhere."""
    prices = str(Path(config.ledger.prices).absolute()) if config.ledger.prices else ""
    ledger = msgspec.structs.replace(config.ledger, prices=prices)
    home = str(config.home_path().absolute())
    path = folder.absolute() / "config.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(config, home=home, ledger=ledger)))
    path.chmod(0o600)
    return path


def _print(built: Built) -> None:
    models = [node for node in built.nodes if node.kind == "model"]
    print_table(
        ("model", "status", "seconds"),
        [[node.name, node.status, f"{node.seconds:.2f}"] for node in models],
        title=f"Marts in {built.database}",
        right=("seconds",),
    )
    for node in built.nodes:
        if node.status not in (*PASSED, "skipped"):
            _print_failure(node)
    tests = [node for node in built.nodes if node.kind != "model"]
    passed = sum(node.status in PASSED for node in built.nodes)
    skipped = sum(node.status == "skipped" for node in built.nodes)
    click.echo(
        f"{passed} of {len(built.nodes)} passed ({len(models)} models, {len(tests)} tests,"
        f" {skipped} skipped) in {built.seconds:.1f} s; tables in {built.database}",
        err=True,
    )


def _print_failure(node: Node) -> None:
    click.echo(f"\n{node.kind} {node.name}: {node.status}: {node.message}", err=True)
    if node.sql and node.kind == "test":
        click.echo("the rows, by `fungible cost sql`:", err=True)
    for line in node.sql.splitlines():
        if line.strip():
            click.echo(f"    {line}", err=True)
