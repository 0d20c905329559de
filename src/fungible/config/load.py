"""`fungible.toml` -> the checked configuration."""

import tomllib
from pathlib import Path

import msgspec

from fungible.config.check import check_config
from fungible.config.model import Config
from fungible.errors import ConfigError


def load_config(path: Path) -> Config:
    """The checked configuration from TOML, or from JSON as `fungible up` resolves it.

    Relative paths in it are relative to the file.

    Raises:
        ConfigError: The file is missing or malformed; names the file and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = msgspec.json.decode(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file", hint="run `fungible quickstart`, or pass --config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}", hint="see docs/reference/config.md") from error
    check_config(config, str(path))
    home = path.parent / config.home
    prices = str(path.parent / config.ledger.prices) if config.ledger.prices else ""
    ledger = msgspec.structs.replace(config.ledger, prices=prices)
    return msgspec.structs.replace(config, home=str(home), ledger=ledger)
