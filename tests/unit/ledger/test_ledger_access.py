"""Questions reach the ledger through a running control, or by opening it here."""

import json
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fungible.config import Config
from fungible.contract.events import AttemptEvent
from fungible.errors import FungibleError, QueryError, UnavailableError
from fungible.ledger.access import ControlAccess, DirectAccess, decode_rows, open_access
from fungible.ledger.spool import SpoolWriter
from fungible.ledger.store import Store

Make = Callable[..., AttemptEvent]
TOKEN = "secret"


def config_of(home: Path) -> Config:
    (home / "run").mkdir(parents=True, exist_ok=True)
    sheet = "key,unit,leaf,price,currency\nby-token,1M_tokens,input,1,USD\n"
    sheet += "by-token,1M_tokens,output,1,USD\n"
    (home / "prices.csv").write_text(sheet, encoding="utf-8")
    return Config(home=str(home))


def test_nothing_runs_so_the_ledger_is_opened_here(tmp_path: Path, attempt: Make) -> None:
    config = config_of(tmp_path)
    writer = SpoolWriter(config.spool_path(), "gateway-0")
    writer.write(attempt("1"))
    writer.close()
    for _ in range(2):
        access = open_access(config)
        assert isinstance(access, DirectAccess)
        rows = access.query(
            "SELECT cost FROM attempts WHERE backend = {b:String}", {"b": "by-token"}
        )
        assert rows.rows == [(Decimal("0.0011"),)]
        with pytest.raises(QueryError):
            access.query("DROP TABLE attempt_events", readonly=False)
        access.close()


def test_a_stale_address_is_ignored(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "run" / "control.token").write_text(TOKEN)
    for content in ('{"url": "http://127.0.0.1:1", "pid": 1}', "{", '{"pid": 1}'):
        (tmp_path / "run" / "control.json").write_text(content)
        access = open_access(config)
        assert isinstance(access, DirectAccess)
        access.close()


def test_a_bad_sheet_is_an_error_and_lets_go_of_the_ledger(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "prices.csv").write_text("nonsense")
    with pytest.raises(FungibleError, match=r"prices\.csv:1"):
        open_access(config)
    config = config_of(tmp_path)
    open_access(config).close()


class Handler(BaseHTTPRequestHandler):
    """The agreed `/api/sql` over a real store."""

    store: Store

    def do_GET(self) -> None:
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, b'{"error": {"message": "no", "code": "invalid_api_key"}}')
            return
        try:
            rows = self.store.query(
                body["query"], body["params"], readonly=True, max_rows=body["max_rows"]
            )
            self._answer(200, msgspec.json.encode(rows))
        except FungibleError as error:
            self._answer(error.status, msgspec.json.encode(error.to_openai()))

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def url(store: Store) -> Iterator[str]:
    handler = type("Bound", (Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_running_control_is_asked(tmp_path: Path, url: str, store: Store, attempt: Make) -> None:
    config = config_of(tmp_path)
    (tmp_path / "run" / "control.json").write_text(json.dumps({"url": url, "pid": 1, "extra": 0}))
    (tmp_path / "run" / "control.token").write_text(TOKEN + "\n")
    store.insert([attempt("1")], "s")
    access = open_access(config)
    assert isinstance(access, ControlAccess)
    rows = access.query("SELECT toDecimal128('0', 18) AS d, {n:Int64} AS n", {"n": 5})
    assert rows.rows == [(Decimal("0.000000000000000000"), 5)]
    assert access.query("SELECT * FROM system.numbers", max_rows=3).truncated
    assert access.query("SELECT attempt_id FROM attempts", max_rows=1 << 40).rows == [("att_1",)]
    with pytest.raises(QueryError, match="nosuch"):
        access.query("SELECT * FROM nosuch")
    with pytest.raises(UnavailableError, match="answered 401"):
        ControlAccess(url, "wrong", tmp_path).query("SELECT 1")
    access.close()


def test_a_control_that_went_away_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        ControlAccess("http://127.0.0.1:1", TOKEN, tmp_path).query("SELECT 1")
    with pytest.raises(UnavailableError, match="something else than rows"):
        decode_rows(b"<html>", 5)
