"""Connections to ClickHouse: where a DSN points, and a pool of one client per busy thread."""

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from fungible.errors import ConfigError, MissingExtraError, UnavailableError
from fungible.ledger.schema import Layout, render

DATABASE = "fungible"
# Four engines may share a laptop with the ledger, so the embedded one stays small.
EMBEDDED_OPTIONS = {
    "max_server_memory_usage": 2_000_000_000,
    "mark_cache_size": 67_108_864,
    "index_mark_cache_size": 16_777_216,
    "uncompressed_cache_size": 0,
}
READ_LIMITS = {"max_execution_time": 30, "max_memory_usage": 1_000_000_000}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ledger is: a path of the embedded engine, or a server."""

    path: str = ""
    host: str = ""
    port: int = 8123
    secure: bool = False
    user: str = "default"
    password: str = ""
    database: str = DATABASE
    layout: Layout = Layout()


def parse_dsn(dsn: str) -> Address:
    """`chdb:///abs/path[?database=x]`, `clickhouse://user:password@host:8123/database`.

    `clickhouses://` is the same over TLS (port 8443). For servers, `?engine=replicated` and
    `?cluster=NAME` say how tables are made.

    Raises:
        ConfigError: The scheme, host, port or path is not usable.
    """
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    database = query.get("database", [""])[0]
    if parts.scheme == "chdb" and not parts.netloc and parts.path.strip("/"):
        path = str(Path(unquote(parts.path)).resolve())
        return Address(path=path, database=database or DATABASE)
    hint = "use chdb:///absolute/path or clickhouse://user:password@host:8123/database"
    if parts.scheme not in ("clickhouse", "clickhouses") or not parts.hostname:
        raise ConfigError(f"ledger.dsn: {_masked(dsn)!r} is not a ledger address", hint=hint)
    secure = parts.scheme == "clickhouses"
    try:
        port = parts.port or (8443 if secure else 8123)
    except ValueError as error:
        raise ConfigError(f"ledger.dsn: {_masked(dsn)!r}: bad port", hint=hint) from error
    engine = query.get("engine", ["plain"])[0]
    if engine not in ("plain", "replicated"):
        raise ConfigError(f"ledger.dsn: engine={engine}", hint="it is plain or replicated")
    return Address(
        host=parts.hostname,
        port=port,
        secure=secure,
        user=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=database or parts.path.strip("/") or DATABASE,
        layout=Layout(
            engine="replicated" if engine == "replicated" else "plain",
            cluster=query.get("cluster", [""])[0],
        ),
    )


class Client(Protocol):
    """What the ledger needs of a clickhouse-connect client, which has no precise types."""

    database: str | None

    def command(self, cmd: str) -> object:
        """Run a statement without an answer."""
        ...

    def query(self, query: str, parameters: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Run a statement; a `QueryResult`."""
        ...

    def query_row_block_stream(
        self,
        query: str,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run a statement; a context manager of blocks of rows."""
        ...

    def raw_insert(
        self, table: str, *, insert_block: bytes, fmt: str, settings: dict[str, Any]
    ) -> object:
        """Insert encoded rows."""
        ...

    def set_client_setting(self, key: str, value: str) -> None:
        """A setting of every later statement."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class ClientPool:
    """Clients of one address. A client is used by one thread at a time and kept for the next.

    A read-only client can never be made writable again: it is refused by the engine.
    """

    def __init__(self, address: Address, *, readonly: bool = False) -> None:
        self._address = address
        self._readonly = readonly
        self._lock = threading.Lock()
        self._idle: list[Client] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Client]:
        """A client for the `with` block."""
        client = self._take()
        healthy = False
        try:
            yield client
            healthy = True
        finally:
            # After an error the embedded engine may leave part of an answer on the handle.
            with self._lock:
                keep = healthy and not self._closed
                if keep:
                    self._idle.append(client)
            if not keep:
                client.close()

    def close(self) -> None:
        """Close idle clients; those on loan are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _take(self) -> Client:
        with self._lock:
            if self._closed:
                raise UnavailableError("the ledger is closed")
            if self._idle:
                return self._idle.pop()
        return connect(self._address, readonly=self._readonly)


def connect(address: Address, *, readonly: bool) -> Client:
    """A new clickhouse-connect client with the database selected (and made, if missing)."""
    try:
        from clickhouse_connect import get_client  # noqa: PLC0415  # heavy, and optional
        from clickhouse_connect.driver.exceptions import (  # noqa: PLC0415
            Error,
            ProgrammingError,
        )
    except ImportError as error:
        raise _missing(error) from error
    limits = READ_LIMITS if readonly else {}
    try:
        if not address.path:
            return _connect_server(get_client, address, limits, readonly)
        return _connect_embedded(get_client, address, limits, readonly)
    except ImportError as error:
        raise _missing(error) from error
    except ProgrammingError as error:
        raise _refused(address, str(error)) from error
    except Error as error:
        where = address.path or f"{address.host}:{address.port}"
        first = str(error).splitlines()[0][:300]
        raise UnavailableError(
            f"the ledger at {where} cannot be opened: {first}",
            hint="check ledger.dsn and that the server is up",
        ) from error


def _connect_embedded(
    get_client: Callable[..., Client], address: Address, limits: dict[str, int], readonly: bool
) -> Client:
    Path(address.path).mkdir(parents=True, exist_ok=True)
    _check_owner(Path(address.path))
    client = get_client(
        interface="chdb",
        path=address.path,
        chdb_options=EMBEDDED_OPTIONS,
        settings={"async_insert": 0, **limits},
    )
    client.command(f"CREATE DATABASE IF NOT EXISTS `{address.database}`")
    client.database = address.database
    client.command("SELECT 1")
    if readonly:
        client.set_client_setting("readonly", "1")
    return client


def _connect_server(
    get_client: Callable[..., Client], address: Address, limits: dict[str, int], readonly: bool
) -> Client:
    where: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "interface": "https" if address.secure else "http",
        "username": address.user,
        "password": address.password,
        "autogenerate_session_id": False,
    }
    if not readonly:
        client = get_client(**where)
        made = render(f"CREATE DATABASE IF NOT EXISTS `{address.database}`", address.layout)
        client.command(made)
        client.close()
    settings = {"readonly": 1, **limits} if readonly else {}
    return get_client(**where, database=address.database, settings=settings)


def _check_owner(path: Path) -> None:
    """Refuse before the engine does: it would only say so on stderr.

    The engine holds a lock on `status`, where it also writes its process's number.
    """
    try:
        with (path / "status").open("rb") as status:
            found = re.search(rb"PID: (\d+)", status.read())
            fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError as error:
        pid = int(found[1]) if found else 0
        if pid == os.getpid():
            return
        raise UnavailableError(
            f"{path}: process {pid} has the ledger open",
            hint="it is asked through `fungible control`; otherwise stop that process",
        ) from error


def _refused(address: Address, message: str) -> UnavailableError:
    if "already initialized with path" in message:
        return UnavailableError(
            f"{address.path}: this process has another embedded ledger open",
            hint="close it first; one process holds one embedded ledger",
        )
    reason = message.rsplit("DB::Exception: ", 1)[-1][:300]
    return UnavailableError(
        f"{address.path}: cannot open the ledger: {reason}",
        hint="the engine wrote the reason to stderr; is another process using it?",
    )


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"the ledger needs {error.name or 'clickhouse-connect'}, which is not installed",
        hint="pip install 'fungible[ledger]'",
    )


def _masked(dsn: str) -> str:
    """The DSN without a password, for messages."""
    parts = urlsplit(dsn)
    return dsn.replace(f":{parts.password}@", ":…@") if parts.password else dsn
