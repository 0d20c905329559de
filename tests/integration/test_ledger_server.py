"""The same store against a ClickHouse server over HTTP.

`CLICKHOUSE_URL` (such as `clickhouse://default:@127.0.0.1:8123`) names a real one. Without
it, the endpoint of a control process stands in: clickhouse-connect's own client talks to it,
and the SQL is executed by the same engine.
"""

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.contract.ids import new_id
from fungible.errors import QueryError
from fungible.ledger.pricing import reprice
from fungible.ledger.sheets import load_prices
from fungible.ledger.store import Store, open_store
from support.clickhouse_server import ClickHouseServer

S = 1_000_000_000
T0 = 1_790_000_040 * S


@pytest.fixture
def dsn(tmp_path: Path) -> Iterator[str]:
    database = f"fungible_test_{new_id()[-8:]}"
    if real := os.environ.get("CLICKHOUSE_URL"):
        yield f"{real.rstrip('/')}/{database}"
        return
    with ClickHouseServer(tmp_path) as server:
        yield f"clickhouse://fungible:{server.token}@127.0.0.1:{server.port}/{database}"


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
