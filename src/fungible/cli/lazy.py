"""A group of commands that are imported when they are called."""

from importlib import import_module
from typing import Any

import click

# name -> (module, attribute, one line for --help); a table, so that --help imports nothing.
Table = dict[str, tuple[str, str, str]]


class LazyGroup(click.Group):
    """Commands of `table`, in its order, each imported when it is called."""

    def __init__(self, *args: Any, table: Table, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        del ctx
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; `None` when there is none of that name."""
        del ctx
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  # the tables are ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in self._table.items()])
