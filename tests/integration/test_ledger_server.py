"""The same store against a ClickHouse server over HTTP.

`CLICKHOUSE_URL` (such as `clickhouse://default:@127.0.0.1:8123`) names a real one. Without
it, a small HTTP front over the embedded engine stands in: clickhouse-connect's own client
talks to it, and the SQL is executed by the same engine.
"""

import os
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.contract.ids import new_id
from fungible.errors import QueryError
from fungible.ledger.pricing import reprice
from fungible.ledger.sheets import load_prices
from fungible.ledger.store import Store, open_store

S = 1_000_000_000
T0 = 1_790_000_040 * S
_TRANSPORT = {
    "query",
    "query_id",
    "session_id",
    "database",
    "client_protocol_version",
    "wait_end_of_query",
    "buffer_size",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "enable_http_compression",
    "compress",
    "cancel_http_readonly_queries_on_client_close",
}


class Front(BaseHTTPRequestHandler):
    """As much of ClickHouse's HTTP interface as clickhouse-connect uses here."""

    protocol_version = "HTTP/1.1"
    folder: Path
    lock = threading.Lock()

    def do_GET(self) -> None:
        self._answer(200, b"Ok.\n")

    def do_POST(self) -> None:
        fields = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        asked = {name: values[0] for name, values in fields.items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sql = asked.get("query", "")
        if sql.lstrip().upper().startswith("INSERT"):
            data = self.folder / f"{new_id()}.rows"
            data.write_bytes(body)
            head, tail = sql.rsplit("FORMAT", 1)
            sql = f"{head} FROM INFILE '{data}' FORMAT {tail.strip()}"
        else:
            sql = sql or body.decode()
        with self.lock:
            self._execute(sql, asked)

    def _execute(self, sql: str, asked: dict[str, str]) -> None:
        import chdb  # noqa: PLC0415  # heavy

        handle = chdb.connect(str(self.folder / "server"))
        try:
            if "database" in asked:
                handle.query(f"USE `{asked['database']}`")
            last = [item for item in asked.items() if item[0] == "readonly"]
            settings = [item for item in asked.items() if item[0] != "readonly"] + last
            for name, value in settings:
                if name not in _TRANSPORT and not name.startswith("param_"):
                    handle.query(f"SET {name} = '{value}'")
            params = {name[6:]: text for name, text in asked.items() if name.startswith("param_")}
            self._answer(200, bytes(handle.query(sql, "TabSeparated", params=params).bytes()))
        except RuntimeError as error:
            self._answer(500, str(error).encode())
        finally:
            handle.close()

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if status != 200:
            code = data.decode().split("Code: ", 1)[-1].split(".")[0]
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def dsn(tmp_path: Path) -> Iterator[str]:
    database = f"fungible_test_{new_id()[-8:]}"
    if real := os.environ.get("CLICKHOUSE_URL"):
        yield f"{real.rstrip('/')}/{database}"
        return
    import chdb  # noqa: PLC0415  # heavy

    anchor = chdb.connect(str(tmp_path / "server"))  # keeps the engine up between requests
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Front,), {"folder": tmp_path}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"clickhouse://127.0.0.1:{server.server_port}/{database}"
    server.shutdown()
    server.server_close()
    thread.join()
    anchor.close()


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    opened = open_store(dsn)
    yield opened
    opened.close()


def attempt(name: str, backend: str) -> AttemptEvent:
    return AttemptEvent(
        attempt_id=name,
        request_id=f"req_{name}",
        attempt_no=0,
        kind="serve",
        endpoint="chat/completions",
        model="m",
        backend=backend,
        backend_kind="null",
        started_ns=T0,
        ended_ns=T0 + S,
        status="ok",
        tags={"a": "ü"},
        in_uncached=1000,
        in_cache_read=0,
        in_cache_write=0,
        out_visible=0,
        out_reasoning=0,
    )


def test_ship_price_and_ask_over_http(store: Store, tmp_path: Path) -> None:
    assert store.migrate()
    assert store.migrate() == []
    records = [
        attempt("1", "by-token"),
        attempt("2", "by-hour"),
        LeaseEvent(
            lease_id="l", backend="by-hour", accelerator="a", started_ns=T0, seen_ns=T0 + 60 * S
        ),
    ]
    for _ in range(2):
        store.insert(records, "segment")
    sheet = tmp_path / "prices.csv"
    sheet.write_text(
        "key,unit,leaf,price,currency\nby-hour,hour,,3.6,USD\nby-token,1M_tokens,input,1,USD\n"
    )
    assert reprice(store, load_prices(sheet), T0) == 3
    rows = store.query(
        "SELECT attempt_id, cost, tags FROM attempts WHERE model = {m:String} ORDER BY 1",
        {"m": "m"},
        readonly=True,
    )
    assert rows.rows == [("1", Decimal("0.001"), {"a": "ü"}), ("2", Decimal("0.001"), {"a": "ü"})]
    assert store.query("SELECT sum(amount) FROM idle").rows == [(Decimal("0.059"),)]
    empty = store.query("SELECT attempt_id FROM attempts WHERE 0", readonly=True)
    assert (empty.columns, empty.rows) == (["attempt_id"], [])
    for sql in ("DROP TABLE leases", "SELECT * FROM nosuch"):
        with pytest.raises(QueryError) as raised:
            store.query(sql, readonly=True)
        assert "127.0.0.1" not in raised.value.message
    assert store.query("SELECT count() FROM leases").rows == [(1,)]
