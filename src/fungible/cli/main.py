"""`fungible`: one command per noun, loaded only when it is called."""

import sys
from importlib import import_module

import click
import msgspec

from fungible import __version__
from fungible.errors import FungibleError

# noun -> (module, attribute, one line for --help); a table, so that --help imports nothing.
COMMANDS = {
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
    "key": ("fungible.cli.key", "key", "Make API keys."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Nouns in the order of the loop."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; `None` when there is no such noun."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  # the table above is ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of nouns, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup)
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
