"""The ClickHouse that dbt builds in: a server, a running control's endpoint, or one for a while."""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from fungible.config import Config
from fungible.errors import StartupError, UnavailableError
from fungible.ledger.access import ControlAddress, control_address, open_access
from fungible.ledger.clients import parse_dsn

OWNER = "fungible"
ENDPOINT_TOKEN = "FUNGIBLE_ENDPOINT_TOKEN"  # noqa: S105  # the name of a variable
_STOP_S = 30.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where dbt connects. `database` is the ledger's; the marts go to `<database>_marts`."""

    host: str
    port: int
    user: str
    password: str
    database: str
    secure: bool = False
    cluster: str = ""

    @property
    def marts(self) -> str:
        """The marts' database."""
        return f"{self.database}_marts"

    def variables(self) -> dict[str, str]:
        """What `profiles.yml` reads from the environment; dbt keeps the password out of logs."""
        return {
            "FUNGIBLE_CLICKHOUSE_HOST": self.host,
            "FUNGIBLE_CLICKHOUSE_PORT": str(self.port),
            "FUNGIBLE_CLICKHOUSE_SECURE": str(self.secure),
            "FUNGIBLE_CLICKHOUSE_USER": self.user,
            "FUNGIBLE_CLICKHOUSE_CLUSTER": self.cluster,
            "FUNGIBLE_LEDGER_DATABASE": self.database,
            "FUNGIBLE_MARTS_DATABASE": self.marts,
            "DBT_ENV_SECRET_FUNGIBLE_PASSWORD": self.password,
        }


class ReadyLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoint's process prints once it answers; see `cli/serve.py`."""

    url: str


@contextlib.contextmanager
def open_target(config: Config, config_path: Path) -> Iterator[Target]:
    """The target of this configuration; the ledger is shipped, stitched and priced.

    Args:
        config: Of the home.
        config_path: The same, as a file that a child process can read.

    Raises:
        UnavailableError: The ledger is open elsewhere without an endpoint, or not to be reached.
    """
    address = parse_dsn(config.ledger_dsn())
    if not address.path:
        open_access(config).close()
        yield Target(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            secure=address.secure,
            cluster=address.layout.cluster,
        )
        return
    if running := control_address(config):
        yield _target(*_running(config, running), address.database)
        return
    token = secrets.token_urlsafe(32)
    with _endpoint(config.home_path() / "warehouse" / "endpoint.log", config_path, token) as url:
        yield _target(url, token, address.database)


def _target(url: str, token: str, database: str) -> Target:
    where = urlsplit(url)
    return Target(
        host=where.hostname or "127.0.0.1",
        port=where.port or 8123,
        user=OWNER,
        password=token,
        database=database,
    )


def _running(config: Config, address: ControlAddress) -> tuple[str, str]:
    """URL and token of the endpoint of the control process that runs here."""
    if not address.clickhouse:
        raise UnavailableError(
            f"control at {address.url} has the ledger open and serves no ClickHouse endpoint",
            hint="set control.clickhouse.enabled, or stop it for the time of the build",
        )
    token = config.home_path() / "run" / "control.token"
    return address.clickhouse, token.read_text(encoding="ascii").strip()


@contextlib.contextmanager
def _endpoint(log: Path, config_path: Path, token: str) -> Iterator[str]:
    """URL of a process that has the embedded ledger open; it ends with the `with` block."""
    command = [sys.executable, "-P", "-m", "fungible.cli.supervised"]
    command += ["warehouse", "endpoint", "--config", str(config_path)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            env=os.environ | {ENDPOINT_TOKEN: token},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    assert process.stdin is not None  # noqa: S101  # asked for pipes
    assert process.stdout is not None  # noqa: S101
    try:
        yield _ready(process.stdout.readline(), log)
    finally:
        process.stdin.close()  # it stops in order
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _ready(line: bytes, log: Path) -> str:
    try:
        return msgspec.json.decode(line, type=ReadyLine).url
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = next((text[7:] for text in said if text.startswith("error: ")), "")
        hint = next((text[6:] for text in said if text.startswith("hint: ")), f"see {log}")
        raise StartupError(
            f"the ledger cannot be opened for dbt: {reason or 'no reason was given'}", hint=hint
        ) from error
