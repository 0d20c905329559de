"""`fungible`: one command per noun, loaded only when it is called."""

import sys

import click
import msgspec

from fungible import __version__
from fungible.cli.lazy import LazyGroup, Table
from fungible.errors import FungibleError

# In the order of the loop.
COMMANDS: Table = {
    "quickstart": ("fungible.cli.quickstart", "quickstart", "The whole loop on this machine."),
    "up": ("fungible.cli.up", "up", "Start gateway, control and engines from fungible.toml."),
    "artifact": ("fungible.cli.artifact", "artifact", "Build, inspect and verify artifacts."),
    "engine": ("fungible.cli.engine", "engine", "Serve one artifact on one target."),
    "gateway": ("fungible.cli.gateway", "gateway", "Serve the contract in front of backends."),
    "control": ("fungible.cli.control", "control", "Own the ledger, the routes and the page."),
    "backend": ("fungible.cli.backend", "backend", "List and check backends."),
    "route": ("fungible.cli.route", "route", "Show who may serve and who does."),
    "eval": ("fungible.cli.evals", "evals", "Run suites and decide verdicts."),
    "bench": ("fungible.cli.bench", "bench", "Record and replay traffic shapes."),
    "migrate": ("fungible.cli.migrate", "migrate", "Move traffic by evidence."),
    "cost": ("fungible.cli.cost", "cost", "What tokens and requests cost."),
    "warehouse": ("fungible.cli.warehouse", "warehouse", "The tables behind the numbers."),
    "ingest": ("fungible.cli.ingest", "ingest", "Take in what other systems recorded."),
    "key": ("fungible.cli.key", "key", "Make API keys."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
@click.version_option(__version__)
def cli() -> None:
    """Serve on any accelerator, prove quality held, know what every token costs."""


def main() -> None:
    """Entry point: every FungibleError becomes one line on stderr and its exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except FungibleError as error:
        report(error)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def report(error: FungibleError) -> None:
    """Write an error to stderr, or as an OpenAI error body to stdout under `--json`."""
    if "--json" in sys.argv:
        click.echo(msgspec.json.encode(error.to_openai()).decode())
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
