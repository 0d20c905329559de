"""One engine behind one seam: what goes in comes out, once, and questions cannot do harm."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from fungible.contract.events import (
    RECORDS,
    AttemptEvent,
    BenchEvent,
    EvalItemEvent,
    LeaseEvent,
    MigrationEvent,
    Record,
    VerdictEvent,
)
from fungible.contract.steps import ClassWeightsEvent, Step, StepsEvent
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
from fungible.errors import (
    ConfigError,
    FungibleError,
    MissingExtraError,
    QueryError,
    UnavailableError,
)
from fungible.ledger.clients import parse_dsn
from fungible.ledger.store import TABLES, Store, open_store, step_rows

MakeAttempt = Callable[..., AttemptEvent]
MakeLease = Callable[..., LeaseEvent]


VERDICT = VerdictEvent(
    verdict_id="v",
    model="m",
    suite="s",
    suite_hash="h",
    plan_hash="p",
    candidate="c",
    reference="r",
    binding="b",
    reference_binding="rb",
    outcome="fail",
    items=60,
    reference_score=0.5,
    candidate_score=0.25,
    margin=0.05,
    loss_upper=0.3,
    reasons=["it lost 25 points", "twice"],
    metrics={"p": 1e-9},
    decided_ns=1,
    expires_ns=2,
)


STEPS = StepsEvent(
    backend="b",
    run="run_1",
    ids=["att_1", "att_2-1"],
    steps=[Step(1, 10, 5, [1], [4], [0], [4]), Step(2, 15, 6, [0, 1], [0, 7], [1, 0], [3, 11])],
)
CENT = Decimal("0.010000000000000001")
FACTS_OF_EACH: list[Record] = [
    ResponseFact(digest="d1", source="f:1", response_id="chatcmpl-1", stated_cost=CENT),
    SpanFact(digest="d2", source="f:2", trace_id="t", span_id="s", tags={"a": "b"}, service="x"),
    InfraFact(
        provider="aws",
        resource="i-1",
        observed_ns=1,
        digest="d3",
        source="f:3",
        kind="instance",
        addresses=["10.0.0.1"],
    ),
    PriceFact(
        sheet="s",
        known_ns=1,
        row=1,
        digest="d4",
        key="k",
        unit="1M_tokens",
        leaf="input",
        price=CENT,
        currency="USD",
    ),
    RateFact(base="EUR", quote="USD", day=date(2026, 3, 1), rate=CENT, known_ns=2, source="f:5"),
    InvoiceFact(
        issuer="openai",
        invoice="i",
        line="1",
        digest="d6",
        source="f:6",
        known_ns=1,
        start_ns=1,
        end_ns=2,
        billed=-CENT,
        currency="USD",
    ),
    RejectFact(stream="spans", digest="d7", source="f", place="1", reason="r", sample="{", at_ns=1),
    ImportFact(stream="spans", digest="d8", source="f", rows=1, rejected=0, at_ns=1),
]


def one_of_each(attempt: MakeAttempt, lease: MakeLease) -> list[Record]:
    return [
        attempt("1", tags={"team": "α 'quoted' \\ \n"}, first_token_ns=5, streamed=True),
        attempt("2", in_uncached=None, output_chars=3, customer="acme"),
        lease(),
        EvalItemEvent(
            run_id="run",
            suite="everyday",
            suite_hash="h",
            item_id="i",
            cluster="c",
            backend="b",
            attempt_id="att_1",
            score=None,
            output_hash="",
            output_tokens=None,
            finish_reason="stop",
            at_ns=1,
        ),
        VERDICT,
        MigrationEvent(
            migration_id="m1",
            model="m",
            candidate="c",
            reference="r",
            from_state="planned",
            to_state="shadow",
            weight=0.25,
            evidence={"e": 20.5},
            at_ns=3,
        ),
        BenchEvent(
            run_id="run",
            trace="t",
            backend="b",
            binding="bb",
            requests=5,
            failed=1,
            valid=True,
            ttft_p50_ms=1.5,
            ttft_p99_ms=9.5,
            tokens_per_s=100.25,
            wall_s=3.0,
            at_ns=4,
        ),
        STEPS,
        ClassWeightsEvent(
            backend="b",
            in_uncached=3,
            in_cache_read=1,
            out=7,
            source="a file",
            r2=0.5,
            samples=9,
            at_ns=5,
        ),
        *FACTS_OF_EACH,
    ]


def test_every_record_comes_back_as_it_went_in(
    store: Store, attempt: MakeAttempt, lease: MakeLease
) -> None:
    records = one_of_each(attempt, lease)
    assert {type(record) for record in records} == set(RECORDS)
    store.insert(records, "segment")
    back: list[Record] = []
    for kind, table in TABLES.items():
        if kind is StepsEvent:
            continue
        names = ", ".join(kind.__struct_fields__)
        rows = store.query(f"SELECT {names} FROM {table} ORDER BY 1").dicts()
        back += [msgspec.convert(row, kind) for row in rows]
    key = str
    assert sorted(back, key=key) == sorted((one for one in records if one != STEPS), key=key)
    steps = store.query("SELECT * EXCEPT ingested_ns FROM engine_steps ORDER BY step").dicts()
    assert steps == list(step_rows(STEPS))


def test_a_step_is_one_row_however_often_it_comes(store: Store) -> None:
    for segment in ("1", "2"):
        store.insert([STEPS], segment)
    assert store.query("SELECT count() FROM engine_steps FINAL").rows == [(2,)]


def test_the_same_token_inserts_nothing_twice(
    store: Store, attempt: MakeAttempt, lease: MakeLease
) -> None:
    records = one_of_each(attempt, lease)
    for _ in range(3):
        store.insert(records, "segment-1")
    assert store.query("SELECT count() FROM attempt_events").rows == [(2,)]
    assert store.query("SELECT count() FROM verdicts").rows == [(1,)]
    store.insert(records[:1], "segment-2")
    assert store.query("SELECT count() FROM attempt_events").rows == [(3,)]


def test_the_newest_heartbeat_of_a_lease_wins(store: Store, lease: MakeLease) -> None:
    for at in (5, 9, 7):
        store.insert([lease(seen_ns=at)], f"s{at}")
    assert store.query("SELECT seen_ns FROM leases FINAL").rows == [(9,)]


def test_migrating_again_changes_nothing(store: Store, dsn: str) -> None:
    assert store.migrate() == []
    store.insert_rows("schema_migrations", [{"version": 9999, "name": "9999_future.sql"}])
    with pytest.raises(UnavailableError, match="schema version 9999"):
        store.migrate()


def test_views_have_the_agreed_columns(store: Store) -> None:
    rows = store.query("SELECT * FROM attempts")
    types = dict(zip(rows.columns, rows.types, strict=True))
    assert set(AttemptEvent.__struct_fields__) <= set(types)
    assert types["cost"] == "Nullable(Decimal(38, 18))"
    assert {"currency", "cost_status"} <= set(types)
    idle = store.query("SELECT * FROM idle")
    assert {"lease_id", "backend", "window_start_ns", "amount", "currency"} <= set(idle.columns)


def test_parameters_types_and_limits(store: Store) -> None:
    rows = store.query(
        "SELECT {s:String} AS s, {n:Int64} AS n, toDecimal128('0.10', 18) AS d",
        {"s": "it's \\ ü", "n": 1 << 62},
    )
    assert rows.dicts() == [{"s": "it's \\ ü", "n": 1 << 62, "d": Decimal("0.100000000000000000")}]
    assert rows.types == ["String", "Int64", "Decimal(38, 18)"]
    some = store.query("SELECT number FROM system.numbers", max_rows=7)
    assert ([row[0] for row in some.rows], some.truncated) == (list(range(7)), True)
    exact = store.query("SELECT number FROM numbers(7)", max_rows=7)
    assert (len(exact.rows), exact.truncated) == (7, False)
    assert store.query("SELECT 1 AS one -- comment").columns == ["one"]
    assert store.query("SELECT 1 WHERE 0; ").columns == ["1"]
    for statement in ("SHOW TABLES", "DESCRIBE attempts", "EXPLAIN SELECT 1", "EXISTS leases"):
        assert store.query(statement, readonly=True).rows


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("selec 1", "Syntax error"),
        ("SELECT * FROM no_such_table", "no_such_table"),
        ("SELECT nosuch FROM attempts", "nosuch"),
        ("", "the query is empty"),
        (" ;", "the query is empty"),
        ("SELECT throwIf(number = 3) FROM numbers(5)", "Value passed to 'throwIf'"),
    ],
)
def test_bad_sql_is_one_short_error(store: Store, sql: str, says: str) -> None:
    with pytest.raises(QueryError, match=says) as raised:
        store.query(sql, readonly=True)
    assert len(raised.value.message) <= 400
    assert "\n" not in raised.value.message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE leases",
        "INSERT INTO leases (lease_id) VALUES ('x')",
        "CREATE TABLE t (a Int8) ENGINE = Memory",
        "ALTER TABLE leases DELETE WHERE 1",
        "TRUNCATE TABLE leases",
        "SELECT 1; DROP TABLE leases",
        "SHOW TABLES; DROP TABLE leases",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:9/', 'LineAsString')",
        "SELECT 1 INTO OUTFILE '{path}'",
        "SELECT 1 INTO/**/OUTFILE '{path}'",
        "EXPLAIN SELECT 1 INTO OUTFILE '{path}'",
        "SYSTEM SHUTDOWN",
        "USE system",
    ],
)
def test_a_question_changes_nothing(
    store: Store, lease: MakeLease, tmp_path: Path, sql: str
) -> None:
    store.insert([lease()], "s")
    with pytest.raises(QueryError):
        store.query(sql.replace("{path}", str(tmp_path / "out")), readonly=True)
    assert store.query("SELECT count() FROM leases").rows == [(1,)]
    assert not (tmp_path / "out").exists()
    assert store.query("SELECT 1", readonly=True).rows == [(1,)]


def test_threads_read_and_write_at_once(store: Store, attempt: MakeAttempt) -> None:
    errors: list[Exception] = []

    def write(base: int) -> None:
        try:
            for at in range(10):
                store.insert([attempt(f"{base}-{at}")], f"{base}-{at}")
                store.query("SELECT sum(in_uncached) FROM attempts", readonly=base % 2 == 0)
        except FungibleError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(base,)) for base in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.query("SELECT count() FROM attempts").rows == [(40,)]


def test_a_closed_store_says_so_and_the_path_is_free_again(dsn: str, tmp_path: Path) -> None:
    first = open_store(dsn)
    with pytest.raises(UnavailableError, match="another embedded ledger open"):
        open_store(f"chdb://{tmp_path}/elsewhere")
    first.close()
    with pytest.raises(UnavailableError, match="closed"):
        first.query("SELECT 1")
    open_store(f"chdb://{tmp_path}/elsewhere").close()


def test_another_process_has_it_open(store: Store, dsn: str) -> None:
    code = (
        "import sys\nfrom fungible.ledger.store import open_store\n"
        "from fungible.errors import UnavailableError\n"
        "try:\n    open_store(sys.argv[1])\n"
        "except UnavailableError as error:\n    print(error.message, '|', error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, dsn], capture_output=True, text=True, check=True
    )
    assert f"process {os.getpid()} has the ledger open" in done.stdout
    assert done.stderr == ""
    assert store.query("SELECT 1").rows == [(1,)]


def test_databases_share_a_path(dsn: str, lease: MakeLease) -> None:
    one, two = open_store(f"{dsn}?database=one"), open_store(f"{dsn}?database=two")
    try:
        one.migrate()
        two.migrate()
        one.insert([lease()], "s")
        assert two.query("SELECT count() FROM leases").rows == [(0,)]
    finally:
        one.close()
        two.close()


def test_addresses() -> None:
    server = parse_dsn("clickhouse://me:p%40ss@db.example:9999/costs")
    assert (server.host, server.port, server.user) == ("db.example", 9999, "me")
    assert (server.password, server.database, server.secure) == ("p@ss", "costs", False)
    assert parse_dsn("clickhouses://db.example").port == 8443
    assert parse_dsn("chdb:///a/b%20c?database=x").path == "/a/b c"
    bad = ("", "ledger", "chdb://", "chdb://host/x", "postgres://h", "clickhouse://h:port")
    for dsn in bad:
        with pytest.raises(ConfigError, match=r"ledger\.dsn"):
            parse_dsn(dsn)
    with pytest.raises(ConfigError) as raised:
        parse_dsn("postgres://me:secret@h")
    assert "secret" not in raised.value.message


def test_no_server_and_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 cannot be opened"):
        open_store("clickhouse://127.0.0.1:1/x")
    monkeypatch.setitem(sys.modules, "clickhouse_connect", None)
    with pytest.raises(MissingExtraError) as raised:
        open_store("clickhouse://127.0.0.1:1/x")
    assert raised.value.hint == "pip install 'fungible[ledger]'"
