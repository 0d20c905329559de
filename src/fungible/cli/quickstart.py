"""`fungible quickstart`: the whole loop on this machine."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from fungible.cli.serve import check_free
from fungible.config import ControlSettings
from fungible.errors import MissingExtraError

_NEEDED = {
    "onnxruntime": "onnxruntime",
    "jax": "xla",
    "onnx": "build",
    "gguf": "build",
    "chdb": "ledger",
    "numpy": "evals",
}


@click.command()
@click.option("--exit", "exit_", is_flag=True, help="Stop everything at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data.")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".fungible"),
    show_default=True,
    help="Directory of everything that is written.",
)
@click.option("--gateway-port", default=8080, show_default=True, help="0 picks a free one.")
@click.option("--control-port", default=8081, show_default=True, help="0 picks a free one.")
@click.option("--fresh", is_flag=True, help="Judge again, even where a verdict still holds.")
@click.option("--world", is_flag=True, help="Instead: a synthetic month of costs to explore.")
@click.option(
    "--calls", default=2_000, show_default=True, type=click.IntRange(min=1), help="With --world."
)
@click.option("--seed", default=20261001, show_default=True, help="With --world: which month.")
def quickstart(
    *,
    exit_: bool,
    as_json: bool,
    home: Path,
    gateway_port: int,
    control_port: int,
    fresh: bool,
    world: bool,
    calls: int,
    seed: int,
) -> None:
    """The whole loop on this machine, with a real model.

    Builds a portable artifact, serves it from two runtimes in several precisions behind one
    gateway, judges each against the reference, moves traffic to the cheapest that passed, and
    refuses the one that did not.

    With --world no model runs. A synthetic month with known costs and planted faults goes through
    the import commands, and what the ledger makes of it is shown beside the truth; exit code 1
    when they differ. Choose a --home of its own.
    """
    if world:
        _world(home, calls=calls, seed=seed, as_json=as_json)
        return
    _need_extras()
    for port in (gateway_port, control_port, ControlSettings().clickhouse_port(control_port)):
        check_free("127.0.0.1", port)
    # Imported here because these pull in the runtimes: `--help` must not.
    from fungible.quickstart.run import Options, run  # noqa: PLC0415
    from fungible.quickstart.summary import Outcome, table  # noqa: PLC0415

    options = Options(
        home=home, gateway_port=gateway_port, control_port=control_port, fresh=fresh, stay=not exit_
    )

    def show(outcome: Outcome) -> None:
        if as_json:
            click.echo(msgspec.json.encode(outcome).decode())
        else:
            Console(width=None if sys.stdout.isatty() else 110).print(table(outcome))

    asyncio.run(run(options, show))


def _world(home: Path, *, calls: int, seed: int, as_json: bool) -> None:
    from fungible.quickstart.world import run_world, world_table  # noqa: PLC0415  # as above

    outcome = run_world(home, count=calls, seed=seed)
    if as_json:
        click.echo(msgspec.json.encode(outcome).decode())
    else:
        Console(width=None if sys.stdout.isatty() else 110).print(world_table(outcome))
        click.echo(
            f"Explore it: fungible cost report --by customer --home {home}, fungible warehouse"
            f" build --home {home}, fungible cost reconcile --home {home}",
            err=True,
        )
    if not outcome.exact:
        sys.exit(1)


def _need_extras() -> None:
    missing = [extra for name, extra in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(sorted(set(missing)))
        raise MissingExtraError(
            f"the quickstart needs extras that are not installed: {extras}",
            hint=f"pip install 'fungible[{extras}]', or use `uv run fungible quickstart`",
        )
