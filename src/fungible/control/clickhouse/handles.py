"""Handles of the embedded engine: what one statement runs on. Blocking; used by one thread."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from fungible.control.clickhouse.failures import (
    ACCESS_DENIED,
    READONLY,
    ClickHouseError,
    from_engine,
)
from fungible.ledger.clients import EMBEDDED_OPTIONS, Address
from fungible.ledger.guard import Parts, fixed_setting

# An answer that is made in one piece is held in memory.
WHOLE_BYTES = 512 << 20
_ROWS = "TSVRaw"


class _Setting(msgspec.Struct):
    name: str
    value: str
    changed: int


class Handle:
    """A connection of our own to the engine that this process has open."""

    def __init__(self, address: Address) -> None:
        import chdb  # noqa: PLC0415  # heavy

        self._connection = chdb.connect(f"{address.path}?{urlencode(EMBEDDED_OPTIONS)}")
        self._raw = self._connection._conn  # noqa: SLF001  # the facade hides the classifier
        self.run(f"USE {_quoted_name(address.database)}")

    def run(self, sql: str, params: Mapping[str, str] | None = None) -> str:
        """A short statement of our own; its answer as raw tab-separated text."""
        return bytes(self.query(sql.encode(), _ROWS, params or {}).bytes()).decode(errors="replace")

    def query(self, sql: bytes, format_: str, params: Mapping[str, str]) -> Any:  # noqa: ANN401
        """Run a statement; chdb's result, with the whole answer in it."""
        with self._failures():
            return self._raw.query(_text(sql), format_, params=dict(params))

    def stream(self, sql: bytes, format_: str, params: Mapping[str, str]) -> Iterator[Any]:
        """Run a SELECT; its blocks, each a chdb result."""
        with self._failures():
            stream = self._connection.send_query(_text(sql), format_, params=dict(params))
            try:
                yield from stream
            finally:
                stream.close()

    @contextlib.contextmanager
    def insert(self, sql: bytes, format_: str) -> Iterator[Any]:
        """An INSERT to `append` rows to and to `finish`; without that, nothing is kept of it."""
        with self._failures(), self._connection.send_insert(_text(sql), format_) as inserter:
            yield inserter

    def set(self, settings: Mapping[str, str]) -> None:
        """Settings of every later statement on this handle."""
        if settings:
            pairs = ", ".join(f"{name} = {_quoted(value)}" for name, value in settings.items())
            self.run(f"SET {pairs}")

    @contextlib.contextmanager
    def borrowed(self, settings: Mapping[str, str], database: str) -> Iterator[None]:
        """Settings and database for the `with` block only."""
        rows = self._values(settings) if settings else ""
        before = self.run("SELECT currentDatabase()").rstrip("\n") if database else ""
        moves = before != database
        try:
            self.set(settings)
            if moves:
                self.use(database)
            yield
        finally:
            self._restore(rows, before if moves else "")

    def use(self, database: str) -> None:
        """Select a database."""
        self.run(f"USE {_quoted_name(database)}")

    def check(self, sql: bytes, params: Mapping[str, str], *, reads_only: bool) -> None:
        """Raise unless this is one statement and, if asked, only reads the ledger."""
        text = _text(sql)
        kind = self._raw.classify_query(text)
        if kind["statement_count"] > 1:
            raise ClickHouseError(62, "Syntax error: one statement at a time")
        if kind["statement_count"] == 0 and not text.strip(" \t\r\n;"):
            raise ClickHouseError(62, "Syntax error: Empty query")
        if not reads_only:
            return
        if kind["statement_count"] == 0:  # the parser says why; nothing is executed
            self.run("SELECT formatQuery({sql:String})", {"sql": _escaped(text)})
            raise ClickHouseError(62, "Syntax error")
        if str(kind["query_class"]).rsplit(".", 1)[-1] != "READ_ONLY":
            raise ClickHouseError(READONLY, "Cannot execute query in readonly mode")
        parts = Parts(self.run(f"EXPLAIN AST {text}", params))
        if refusal := parts.refused():
            raise ClickHouseError(ACCESS_DENIED, refusal)
        if parts.has_settings:
            plain = self.run("SELECT formatQuery({sql:String})", {"sql": _escaped(text)})
            if name := fixed_setting(plain):
                raise ClickHouseError(452, f"read-only users cannot change {name}")

    def close(self) -> None:
        """Give the connection back to the engine."""
        self._connection.close()

    def _values(self, settings: Mapping[str, str]) -> str:
        array = "[" + ",".join(map(_quoted, settings)) + "]"
        return self.run(
            "SELECT name, value, changed FROM system.settings"
            " WHERE has({names:Array(String)}, name) FORMAT JSONEachRow",
            {"names": array},
        )

    def _restore(self, rows: str, database: str) -> None:
        for line in rows.splitlines():
            was = msgspec.json.decode(line, type=_Setting)
            self.run(f"SET {was.name} = {_quoted(was.value) if was.changed else 'DEFAULT'}")
        if database:
            self.use(database)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise from_engine(error) from error


def _text(sql: bytes) -> str:
    try:
        return sql.decode()
    except UnicodeDecodeError as error:
        raise ClickHouseError(62, "the statement is not UTF-8") from error


def _quoted(text: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"


def _quoted_name(text: str) -> str:
    return "`" + re.sub(r"([`\\])", r"\\\1", text) + "`"


def _escaped(text: str) -> str:
    """A parameter's value as the engine reads it: like a field of tab-separated rows."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
