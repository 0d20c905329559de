"""Options that many commands share, and where the configuration is found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fungible.config import DEFAULT_HOME
from fungible.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="fungible.toml, or the resolved run/config.json of a home.",
)


def common_options(command: Command) -> Command:
    """`--home`, `--config` and `--json`; see `locate_config`."""
    options = [
        click.option(
            "--home", type=click.Path(path_type=Path, file_okay=False), help="Default: .fungible"
        ),
        click.option("--config", "config_path", type=click.Path(path_type=Path, dir_okay=False)),
        click.option("--json", "as_json", is_flag=True, help="Print the result as data."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def locate_config(home: Path | None, config_path: Path | None) -> Path:
    """The configuration file to use.

    `--config` wins; else `fungible.toml` in the working directory (without `--home`), then in
    the home; else what `fungible up` last ran with.

    Raises:
        ConfigError: There is none.
    """
    if config_path is not None:
        return config_path
    base = home or DEFAULT_HOME
    here = [Path("fungible.toml")] if home is None else []
    places = (*here, base / "fungible.toml", base / "run" / "config.json")
    for path in places:
        if path.is_file():
            return path
    raise ConfigError(
        f"no configuration: none of {', '.join(map(str, places))} exists",
        hint="run `fungible quickstart`, or pass --config or --home",
    )
