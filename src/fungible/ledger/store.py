"""The ledger's engine: ClickHouse, embedded (`chdb:///path`) or a server (`clickhouse://host`).

Both sides are the same engine and take the same SQL through clickhouse-connect. The embedded
one allows a single process per path and a single path per process, so one `Store` is opened
by whoever owns the ledger and shared between its threads.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from fungible.contract.events import (
    AttemptEvent,
    BenchEvent,
    EvalItemEvent,
    LeaseEvent,
    MigrationEvent,
    Record,
    VerdictEvent,
)
from fungible.contract.steps import ClassWeightsEvent, StepsEvent
from fungible.contract.streams import (
    ImportFact,
    InfraFact,
    InvoiceFact,
    PriceFact,
    RateFact,
    RejectFact,
    ResponseFact,
    SpanFact,
)
from fungible.errors import DiskError, FungibleError, QueryError, UnavailableError
from fungible.ledger.clients import Client, ClientPool, parse_dsn
from fungible.ledger.guard import Parts
from fungible.ledger.schema import BOOKKEEPING, render, statements, steps

log = logging.getLogger(__name__)

TABLES: dict[type[Record], str] = {
    AttemptEvent: "attempt_events",
    LeaseEvent: "leases",
    EvalItemEvent: "eval_items",
    VerdictEvent: "verdicts",
    MigrationEvent: "migrations",
    BenchEvent: "benches",
    StepsEvent: "engine_steps",
    ClassWeightsEvent: "class_weights",
    ResponseFact: "responses",
    SpanFact: "spans",
    InfraFact: "infra",
    PriceFact: "price_rows",
    RateFact: "fx_rates",
    InvoiceFact: "invoice_lines",
    RejectFact: "rejects",
    ImportFact: "imports",
}
INSERT_ROWS = 20_000
EVERYTHING = 1 << 40  # `max_rows` of queries whose answer must be whole
_DISK_CODES = {74, 75, 243, 1001}  # cannot read, cannot write, not enough space, std::exception
# Statements that the engine answers whole; everything else is read block by block.
_WHOLE = re.compile(r"\s*(SHOW|DESC|DESCRIBE|EXPLAIN|EXISTS|CHECK)\b", re.IGNORECASE)
# The format that clickhouse-connect appends is where a query that stops too early fails.
_AT_END = re.compile(r"at position \d+ \((FORMAT|Native)\) \(line \d+, col \d+\): (FORMAT )?Native")
_WRAPPING = re.compile(
    r"Received ClickHouse exception, code: \d+, server response: |(Code: \d+\. )?DB::Exception: "
    r"| \(for url [^)]*\)|: In scope SELECT formatQuery\(.*"
)


class Rows(msgspec.Struct, kw_only=True):
    """The answer to a query.

    Attributes:
        columns: Names, in order.
        types: ClickHouse types, in the same order.
        rows: Values; `Decimal(…)` columns hold `decimal.Decimal`.
        truncated: Whether there was more than `max_rows`.
    """

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool = False

    def dicts(self) -> list[dict[str, Any]]:
        """One dictionary per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Store:
    """A ledger that is open. Safe to share between threads; blocking."""

    def __init__(self, dsn: str) -> None:
        address = parse_dsn(dsn)
        self._layout = address.layout
        self._clients = ClientPool(address)
        self._readers = ClientPool(address, readonly=True)

    def migrate(self) -> list[str]:
        """Bring tables and views up to date; the names of the steps that were applied.

        Raises:
            UnavailableError: The ledger was written by a newer release.
        """
        with self._client() as client:
            client.command(render(BOOKKEEPING, self._layout))
            done = {
                row[0] for row in client.query("SELECT version FROM schema_migrations").result_rows
            }
            known = steps()
            if done - known.keys():
                raise UnavailableError(
                    f"the ledger has schema version {max(done)}, newer than this release",
                    hint="upgrade fungible, or point it at another ledger",
                )
            applied: list[dict[str, object]] = []
            for version in sorted(known.keys() - done):
                step = known[version]
                for statement in statements(step.rendered(self._layout)):
                    # A new ledger has no rows to carry over.
                    if done or not statement.startswith("INSERT"):
                        client.command(statement)
                applied.append({"version": version, "name": step.name})
                self.insert_rows("schema_migrations", applied[-1:])
        return [str(step["name"]) for step in applied]

    def insert(self, records: Sequence[Record], token: str) -> None:
        """Insert records into their tables; the same token again inserts nothing.

        A token stands for exactly these records in this order. After a failure call again
        with the same token.

        Raises:
            DiskError: The ledger's disk is full.
            UnavailableError: The engine refused or cannot be reached.
        """
        for kind, table in TABLES.items():
            rows: list[Any] = [record for record in records if type(record) is kind]
            if kind is StepsEvent:
                rows = [row for batch in rows for row in step_rows(batch)]
            self.insert_rows(table, rows, f"{token}:{table}")

    def insert_rows(self, table: str, rows: Sequence[Any], token: str = "") -> None:
        """Insert structs or dictionaries into one table, in blocks of `INSERT_ROWS`."""
        for at in range(0, len(rows), INSERT_ROWS):
            block = msgspec.json.Encoder().encode_lines(rows[at : at + INSERT_ROWS])
            settings: dict[str, Any] = {
                "async_insert": 0,
                "input_format_skip_unknown_fields": 1,  # the `record` tag
                "input_format_json_read_numbers_as_strings": 0,
            }
            if token:
                settings["insert_deduplication_token"] = f"{token}:{at}"
            with self._client() as client:
                client.raw_insert(table, insert_block=block, fmt="JSONEachRow", settings=settings)

    def command(self, sql: str) -> None:
        """Run one statement of our own that has no answer."""
        with self._client() as client:
            client.command(sql)

    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        readonly: bool = False,
        max_rows: int = 100_000,
    ) -> Rows:
        """Run one statement. Parameters are written `{name:Type}` in the SQL.

        `readonly` is for SQL that a person wrote: it cannot change anything, read files or
        URLs, or run longer than half a minute.

        Raises:
            QueryError: The engine refused the SQL; carries its message, shortened.
            UnavailableError: The engine cannot be reached.
        """
        text = sql.strip().rstrip(";").rstrip()
        if not text:
            raise QueryError("the query is empty", hint="for example: SELECT * FROM attempts")
        if readonly and "outfile" in text.lower():
            raise QueryError("INTO OUTFILE is not allowed here", hint="redirect the output")
        if _WHOLE.match(text) and ";" in text:
            raise QueryError("one statement at a time", hint="leave the semicolon out")
        with self._client(readonly=readonly, asked=True) as client:
            if readonly:
                _check_parts(client, text, params)
            if _WHOLE.match(text):
                return _whole(client, text, params, max_rows)
            rows = _streamed(client, text, params, max_rows)
            if not rows.columns:
                rows = _describe(client, text, params)
        return rows

    def close(self) -> None:
        """Close the engine; nothing may use the store afterwards."""
        self._clients.close()
        self._readers.close()

    @contextmanager
    def _client(self, *, readonly: bool = False, asked: bool = False) -> Iterator[Client]:
        from clickhouse_connect.driver import exceptions  # noqa: PLC0415  # loaded with the client

        pool = self._readers if readonly else self._clients
        try:
            with pool.lend() as client:
                yield client
        except exceptions.Error as error:
            raise _translate(error, asked) from error
        except OSError as error:
            raise DiskError(f"the ledger cannot write: {error}", hint="free disk space") from error


def step_rows(batch: StepsEvent) -> Iterator[dict[str, object]]:
    """A row of `engine_steps` for each step of a batch."""
    for step in batch.steps:
        yield {
            "backend": batch.backend,
            "run": batch.run,
            "step": step.step,
            "start_ns": step.start_ns,
            "duration_ns": step.duration_ns,
            "prefill_tokens": sum(step.prefill),
            "decode_tokens": sum(step.decode),
            "requests": [batch.ids[at] for at in step.requests],
            "prefill": step.prefill,
            "decode": step.decode,
            "kv": step.kv,
        }


def open_store(dsn: str) -> Store:
    """Open the ledger at `chdb:///abs/path[?database=…]` or `clickhouse://host:8123/database`.

    Raises:
        ConfigError: The DSN is malformed.
        MissingExtraError: The `ledger` extra is not installed.
        UnavailableError: Another process owns the embedded path, or no server answers.
    """
    store = Store(dsn)
    try:
        store.query("SELECT 1")
    except FungibleError:
        store.close()
        raise
    return store


def _check_parts(client: Client, sql: str, params: Mapping[str, Any] | None) -> None:
    """Raise where SQL is more than one statement, or reads what the ledger does not hold."""
    # Formatting takes one statement and runs nothing; EXPLAIN would run a second one.
    client.query("SELECT formatQuery({sql:String})", parameters={"sql": sql})
    ast = client.query(f"EXPLAIN AST {sql}", parameters=params).result_rows
    if refusal := Parts("\n".join(line for (line,) in ast)).refused():
        raise QueryError(refusal, hint="ask tables and views of the ledger")


def _streamed(client: Client, sql: str, params: Mapping[str, Any] | None, max_rows: int) -> Rows:
    """Read blocks until there are more than `max_rows`; no columns at all when it is empty."""
    rows: list[tuple[Any, ...]] = []
    with client.query_row_block_stream(sql, parameters=params) as stream:
        columns = list(stream.source.column_names)
        types = [kind.name for kind in stream.source.column_types]
        for block in stream:
            rows.extend(map(tuple, block))
            if len(rows) > max_rows:
                break
    return Rows(columns=columns, types=types, rows=rows[:max_rows], truncated=len(rows) > max_rows)


def _whole(client: Client, sql: str, params: Mapping[str, Any] | None, max_rows: int) -> Rows:
    result = client.query(sql, parameters=params)
    rows = [tuple(row) for row in result.result_rows]
    return Rows(
        columns=list(result.column_names),
        types=[kind.name for kind in result.column_types],
        rows=rows[:max_rows],
        truncated=len(rows) > max_rows,
    )


def _describe(client: Client, sql: str, params: Mapping[str, Any] | None) -> Rows:
    """The columns of a query that has no rows: the engine sends none with an empty answer."""
    result = client.query(f"DESCRIBE TABLE ({sql}\n)", parameters=params)
    names = [row[0] for row in result.result_rows]
    return Rows(columns=names, types=[row[1] for row in result.result_rows], rows=[])


def _translate(error: Exception, asked: bool) -> FungibleError:
    code = getattr(error, "code", None)
    message = _short(str(error))
    if code in _DISK_CODES and "space" in message.lower():
        return DiskError(f"the ledger's disk is full: {message}", hint="free disk space")
    if code is None:
        return UnavailableError(
            f"the ledger cannot be reached: {message}",
            hint="check ledger.dsn and that the server is up",
        )
    if asked and "Streaming query is not supported" in message:
        return QueryError("only statements that read are allowed here", hint="start with SELECT")
    if asked:
        return QueryError(message)
    return UnavailableError(f"the ledger refused: {message}")


def _short(message: str) -> str:
    """The engine's own message without its list of expected tokens and its wrapping."""
    text = message.replace("\n FORMAT Native", "").split(" Expected one of:")[0]
    text = _AT_END.sub("at the end of the query", text)
    text = _WRAPPING.sub("", text)
    text = re.sub(r"\s+", " ", text).strip(" .")
    return text if len(text) <= 400 else text[:397] + "…"
