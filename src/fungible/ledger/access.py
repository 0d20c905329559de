"""Ask the ledger, whoever has it open.

The embedded engine belongs to one process. While `fungible control` runs, questions go to
it over HTTP; otherwise the ledger is opened here, brought up to date, and asked directly.
"""

import http.client
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from fungible.config import Config
from fungible.errors import FungibleError, QueryError, UnavailableError
from fungible.ledger.known_prices import KnownPrices
from fungible.ledger.pricing import reprice
from fungible.ledger.segments import SEALED
from fungible.ledger.ship import ship
from fungible.ledger.stitch import stitch
from fungible.ledger.store import Rows, Store, open_store

TIMEOUT_S = 60.0
MAX_ROWS = 100_000  # the most that control hands out in one answer


class Access(Protocol):
    """An open way to the ledger; read-only. Close it after use."""

    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        readonly: bool = True,
        max_rows: int = 100_000,
    ) -> Rows:
        """Run one statement that reads; errors as `Store.query`."""
        ...

    def ship(self) -> None:
        """What is sealed in the spool by now is in the ledger when this returns."""
        ...

    def refresh(self) -> None:
        """What lies in the spool by now is in the ledger when this returns, put together.

        Raises:
            UnavailableError: Nobody brings it there.
        """
        ...

    def close(self) -> None:
        """Let go of the ledger."""
        ...


class ControlAddress(msgspec.Struct, frozen=True, kw_only=True):
    """`<home>/run/control.json`: where the running control process answers.

    Attributes:
        clickhouse: Where the embedded ledger is a ClickHouse server; empty where it is not.
    """

    url: str
    pid: int = 0
    clickhouse: str = ""


def open_access(config: Config) -> Access:
    """The way to the ledger of this configuration.

    Raises:
        UnavailableError: The ledger is open in a process that does not answer.
        ConfigError: The price sheet or the ledger's address is malformed.
    """
    if running := _running_control(config):
        address, token = running
        return ControlAccess(address.url, token, config.spool_path())
    return DirectAccess(config)


class DirectAccess:
    """The ledger opened in this process: shipped, put together, priced, then read-only."""

    def __init__(self, config: Config) -> None:
        self._prices = KnownPrices(config)
        self._spool = config.spool_path()
        self._store: Store = open_store(config.ledger_dsn())
        try:
            self._store.migrate()
            self.refresh()
        except FungibleError:
            self._store.close()
            raise

    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        readonly: bool = True,
        max_rows: int = 100_000,
    ) -> Rows:
        """Run one statement that reads."""
        del readonly
        return self._store.query(sql, params, readonly=True, max_rows=max_rows)

    def ship(self) -> None:
        """Move sealed segments into the ledger; putting together and pricing can wait."""
        ship(self._spool, self._store)

    def refresh(self) -> None:
        """Ship, put together and price what is new."""
        self.ship()
        stitch(self._store, time.time_ns())
        reprice(self._store, self._prices.book(self._store), time.time_ns())

    def close(self) -> None:
        """Close the engine."""
        self._store.close()


class ControlAccess:
    """The ledger behind a running control process."""

    def __init__(self, url: str, token: str, spool: Path) -> None:
        self._url = url
        self._token = token
        self._spool = spool

    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        readonly: bool = True,
        max_rows: int = 100_000,
    ) -> Rows:
        """Run one statement that reads."""
        del readonly
        limit = min(max_rows, MAX_ROWS)
        body = {"query": sql, "params": dict(params or {}), "max_rows": limit}
        status, data = _post(self._url, "/api/sql", msgspec.json.encode(body), self._token)
        if status != 200:
            raise _remote_error(self._url, status, data)
        return decode_rows(data, limit)

    def ship(self) -> None:
        """Wait until control has shipped what is sealed now.

        Raises:
            UnavailableError: It does not, for a minute.
        """
        sealed = list(self._spool.glob(f"*/*{SEALED}"))
        self._wait(lambda: not any(path.exists() for path in sealed), "ships the spool")

    def refresh(self) -> None:
        """Wait until control has shipped, put together and priced what is in the spool."""
        self.ship()
        marks = self.query(
            "SELECT greatest((SELECT max(ingested_ns) FROM responses),"
            " (SELECT max(ingested_ns) FROM spans)), (SELECT max(ingested_ns) FROM infra)"
        ).rows[0]

        def done() -> bool:
            seen = self.query("SELECT max(facts_ns), max(infra_ns) FROM stitch_runs").rows[0]
            return all(at >= mark for at, mark in zip(seen, marks, strict=True))

        self._wait(done, "puts facts together")

    def _wait(self, done: Callable[[], bool], doing: str) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not done():
            if time.monotonic() > until:
                raise UnavailableError(
                    f"control at {self._url} has not finished within {TIMEOUT_S:.0f} s: it {doing}",
                    hint="see /health of control; nothing is lost",
                )
            time.sleep(0.05)

    def close(self) -> None:
        """Nothing is held open."""


def decode_rows(data: bytes, max_rows: int) -> Rows:
    """Rows from JSON; decimals travel as strings and become `Decimal` again."""
    try:
        rows = msgspec.json.decode(data, type=Rows)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"control answered something else than rows: {error}") from error
    decimals = [at for at, kind in enumerate(rows.types) if "Decimal(" in kind]
    if decimals:
        rows.rows = [_with_decimals(row, decimals) for row in rows.rows]
    truncated = rows.truncated or len(rows.rows) > max_rows
    return msgspec.structs.replace(rows, rows=rows.rows[:max_rows], truncated=truncated)


def _with_decimals(row: tuple[Any, ...], decimals: list[int]) -> tuple[Any, ...]:
    cells = list(row)
    for at in decimals:
        cells[at] = Decimal(cells[at]) if isinstance(cells[at], str | int) else cells[at]
    return tuple(cells)


def control_address(config: Config) -> ControlAddress | None:
    """Where the control process of this home answers, if there is one and it does."""
    running = _running_control(config)
    return running[0] if running else None


def _running_control(config: Config) -> tuple[ControlAddress, str] | None:
    """The same with its token."""
    run = config.home_path() / "run"
    try:
        address = msgspec.json.decode((run / "control.json").read_bytes(), type=ControlAddress)
        token = (run / "control.token").read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # no control runs here, or it is just starting
        return None
    try:
        status, _ = exchange(address.url, "GET", "/health", b"", token, timeout_s=5.0)
    except (OSError, http.client.HTTPException):
        return None
    return (address, token) if status == 200 else None


def _post(url: str, path: str, body: bytes, token: str) -> tuple[int, bytes]:
    try:
        return exchange(url, "POST", path, body, token, timeout_s=TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"control at {url} does not answer: {error}", hint="check `fungible up`"
        ) from error


def exchange(
    url: str, method: str, path: str, body: bytes, token: str, *, timeout_s: float
) -> tuple[int, bytes]:
    """One request to control: HTTP status and body. Raises what `http.client` and sockets do."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(
        where.hostname or "", where.port or 80, timeout=timeout_s
    )
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, body=body or None, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _remote_error(url: str, status: int, data: bytes) -> FungibleError:
    try:
        said = msgspec.json.decode(data)["error"]
        message, code = str(said["message"]), said.get("code")
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
        message, code = data[:200].decode(errors="replace"), None
    if status == 400 or code == QueryError.code:
        return QueryError(message)
    return UnavailableError(f"control at {url} answered {status}: {message}")
