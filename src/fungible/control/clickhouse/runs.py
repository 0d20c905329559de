"""One statement on the embedded engine, step by step. Every step runs in the same thread."""

import contextlib
import time
import uuid
from collections.abc import Callable, Generator, Iterator

from fungible.control.clickhouse.failures import ClickHouseError
from fungible.control.clickhouse.formats import DEFAULT, head_of
from fungible.control.clickhouse.handles import Handle
from fungible.control.clickhouse.request import Ask
from fungible.control.clickhouse.sessions import Session
from fungible.control.clickhouse.statement import Statement
from fungible.control.clickhouse.users import User
from fungible.ledger.clients import Address
from fungible.ledger.guard import FILES_DATABASE, is_fixed

# An answer that is made in one piece is held in memory.
WHOLE_BYTES = 512 << 20
PIECE_BYTES = 1 << 20


class Run:
    """A statement, its user and its session.

    Attributes:
        mark: What the engine knows it by; see `Engine.kill`.
        summary: For `X-ClickHouse-Summary`, as far as it is known.
    """

    def __init__(
        self, address: Address, user: User, ask: Ask, statement: Statement, session: Session
    ) -> None:
        self.mark = f"fungible-{uuid.uuid4().hex}"
        self.summary: dict[str, str] = {}
        self.format = statement.format or ask.format or DEFAULT
        self._address = address
        self._user = user
        self._ask = ask
        self._statement = statement
        self.session = session

    def pieces(self, *, readonly: bool) -> Generator[bytes, None, None]:
        """The answer, in pieces of about a megabyte. Closing it ends the statement.

        Args:
            readonly: Whether the statement may only read.
        """
        sql, params = self._statement.sql, self._ask.params
        with self._handle(readonly) as handle:
            handle.check(sql, params, reads_only=readonly)
            head = self._by_block()
            if head is None:
                yield from self._whole(handle)
                return
            first = b""
            rows = read_bytes = 0
            began = time.perf_counter()
            for block in handle.stream(sql, self.format, params):
                data = bytes(block.bytes())
                rows, read_bytes = rows + block.rows_read(), read_bytes + block.bytes_read()
                self.summary = _summary(rows, read_bytes, 0, 0, time.perf_counter() - began)
                if not first:
                    first = data[: head(data)] or b"-"
                    yield data
                else:
                    yield data[head(data) :]
            if not first and self.format.endswith(("WithNames", "WithNamesAndTypes")):
                # The engine streams no block without rows, so the names are still missing.
                yield from self._whole(handle)

    def insertion(self) -> Generator[None, bytes | None, None]:
        """Takes rows by `send`, then `None`: only then are they kept."""
        with self._handle(False) as handle:
            handle.set({f"param_{name}": text for name, text in self._ask.params.items()})
            with handle.insert(self._statement.sql.rstrip(), self._statement.format) as inserter:
                while (rows := (yield)) is not None:
                    inserter.append(rows)
                done = inserter.finish()
            self.summary = _summary(
                done.rows_written,
                done.bytes_written,
                done.rows_written,
                done.bytes_written,
                done.elapsed,
            )

    def _whole(self, handle: Handle) -> Iterator[bytes]:
        sql, ask = self._statement.sql, self._ask
        result = handle.query(sql, self.format, ask.params)
        self.summary = _summary(
            result.rows_read(),
            result.bytes_read(),
            result.rows_written(),
            result.bytes_written(),
            result.elapsed(),
        )
        view = memoryview(result.bytes())
        for at in range(0, len(view), PIECE_BYTES):
            yield bytes(view[at : at + PIECE_BYTES])

    @contextlib.contextmanager
    def _handle(self, readonly: bool) -> Iterator[Handle]:
        """The session's handle, with this statement's settings and database."""
        session, ask = self.session, self._ask
        settings = dict(self._settings())
        if self._statement.reads and not self._by_block() and self._user.reader is None:
            settings.setdefault("max_result_bytes", str(WHOLE_BYTES))
        database = self._database()
        if session.named:
            if session.handle is None:
                session.handle = self._opened()
            session.handle.set({"log_comment": self.mark})
            with session.handle.borrowed(settings, database):
                yield session.handle
            return
        handle = self._opened()
        try:
            handle.set({**settings, "log_comment": self.mark})
            if database:
                handle.use(database)
            if readonly and self._user.reader is None:
                handle.set({"readonly": str(ask.readonly or 2)})
            yield handle
        finally:
            handle.close()

    def _by_block(self) -> Callable[[bytes], int] | None:
        return head_of(self.format) if self._statement.streams else None

    def _opened(self) -> Handle:
        handle = Handle(self._address)
        handle.set({"async_insert": "0"})
        if reader := self._user.reader:
            handle.set(
                {
                    "max_execution_time": str(reader.max_execution_s),
                    "max_memory_usage": str(reader.max_memory_bytes),
                    "max_result_rows": str(reader.max_result_rows),
                    "max_result_bytes": str(min(WHOLE_BYTES, reader.max_memory_bytes)),
                }
            )
            handle.set({"readonly": "2"})
        return handle

    def _settings(self) -> dict[str, str]:
        if self._user.reader is not None:
            for name in self._ask.settings:
                if is_fixed(name):
                    raise ClickHouseError(452, f"read-only users cannot change {name}")
        return self._ask.settings

    def _database(self) -> str:
        # Clients that were told no database often say `default`.
        name = self._ask.database
        return "" if self._user.reader is not None and name == FILES_DATABASE else name


def _summary(
    rows: int, size: int, written: int, written_size: int, seconds: float
) -> dict[str, str]:
    numbers = {
        "read_rows": rows,
        "read_bytes": size,
        "written_rows": written,
        "written_bytes": written_size,
        "total_rows_to_read": rows,
        "result_rows": written,
        "result_bytes": written_size,
        "elapsed_ns": int(seconds * 1e9),
    }
    return {name: str(number) for name, number in numbers.items()}
