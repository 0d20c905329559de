"""Unmodified ClickHouse clients, and plain HTTP, against a running control."""

import asyncio
import gzip
import http.client
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import clickhouse_connect
import lz4.frame
import psutil
import pyarrow as pa
import pytest
import zstandard
from clickhouse_connect.driver.exceptions import DatabaseError

from fungible.contract.events import LeaseEvent
from fungible.errors import UnavailableError
from fungible.ledger.store import open_store
from support.clickhouse_server import MAX_INSERT_BYTES, READER_TOKEN, ClickHouseServer

READER = ("bi", READER_TOKEN)
ROWS = [(1, "a", Decimal("0.000000000000000001")), (2, "ü\t\n", Decimal("-3.5"))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("control")) as running:
        running.ask("CREATE TABLE t (n UInt64, s String, d Decimal(38, 18)) ENGINE = Memory")
        yield running


@pytest.fixture
def table(server: ClickHouseServer) -> str:
    server.ask("TRUNCATE TABLE t")
    return "t"


def test_it_says_that_it_is_there(server: ClickHouseServer) -> None:
    for path in ("/", "/ping", "/replicas_status"):
        answer = server.ask(method="GET", path=path, user=("nobody", ""))
        assert (answer.status, answer.body) == (200, b"Ok.\n")
    assert server.ask(path="/nope").status == 404
    assert server.ask("SELECT 1", method="DELETE").status == 405


def test_an_answer_says_what_it_is(server: ClickHouseServer) -> None:
    answer = server.ask("SELECT 1 AS a", query_id="mine")
    assert (answer.status, answer.body) == (200, b"1\n")
    assert answer.headers["x-clickhouse-format"] == "TabSeparated"
    assert answer.headers["x-clickhouse-query-id"] == "mine"
    assert answer.headers["x-clickhouse-server-display-name"] == "fungible"
    assert answer.headers["x-clickhouse-timezone"]
    assert json.loads(answer.headers["x-clickhouse-summary"])["read_rows"] == "1"
    compact = server.ask("SELECT 1 AS a FORMAT JSONCompact").body
    assert json.loads(compact)["data"] == [[1]]
    assert server.ask("SELECT 1 AS a", default_format="CSVWithNames").body == b'"a"\n1\n'
    assert server.ask("SELECT 1 AS a WHERE 0 FORMAT CSVWithNames").body == b'"a"\n'
    assert server.ask(method="GET", query="SELECT {x:UInt8}", param_x="7").body == b"7\n"
    made = server.ask("CREATE TABLE IF NOT EXISTS t (n Int8) ENGINE = Memory")
    assert (made.status, "x-clickhouse-format" in made.headers) == (200, False)


def test_the_sync_client(server: ClickHouseServer, table: str) -> None:
    with clickhouse_connect.get_client(**server.login) as client:
        client.insert(table, ROWS, column_names=["n", "s", "d"])
        assert client.query(f"SELECT * FROM {table} ORDER BY n").result_rows == ROWS
        arrow = pa.table(
            {
                "n": pa.array([3], pa.uint64()),
                "s": ["c"],
                "d": pa.array([Decimal(1)], pa.decimal128(38, 18)),
            }
        )
        client.insert_arrow(table, arrow)
        got = client.query_arrow(f"SELECT * FROM {table} WHERE n = {{n:UInt64}}", {"n": 3})
        assert got["s"].to_pylist() == [b"c"] or got["s"].to_pylist() == ["c"]
        client.raw_insert(table, ["n", "s"], b"4,x\n5,y\n", fmt="CSV", compression=None)
        assert client.command(f"SELECT count() FROM {table}") == 5
        assert client.raw_query("SELECT 1 AS a", fmt="CSVWithNames") == b'"a"\n1\n'
        assert client.query("SELECT 1 WHERE 0").result_rows == []
        frame = client.query_df(f"SELECT n FROM {table} ORDER BY n")
        assert frame["n"].tolist() == [1, 2, 3, 4, 5]


def test_the_sync_client_streams_and_sees_errors_at_any_time(server: ClickHouseServer) -> None:
    with clickhouse_connect.get_client(**server.login) as client:
        with client.query_row_block_stream("SELECT number FROM numbers(300000)") as blocks:
            assert sum(sum(row[0] for row in block) for block in blocks) == 44999850000
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE") as raised:
            client.query("SELECT * FROM nosuch")
        assert getattr(raised.value, "code", 60) == 60
        late = "SELECT throwIf(number = 3000000) FROM numbers(4000000)"
        with (
            pytest.raises(Exception, match="throwIf"),
            client.query_row_block_stream(late) as blocks,
        ):
            for _ in blocks:
                pass


async def test_the_async_client(server: ClickHouseServer, table: str) -> None:
    client = await clickhouse_connect.get_async_client(**server.login)
    try:
        await client.insert(table, ROWS, column_names=["n", "s", "d"])
        found = await client.query(f"SELECT * FROM {table} ORDER BY n")
        assert found.result_rows == ROWS
        answers = await asyncio.gather(
            *(client.query("SELECT {n:UInt8}", {"n": number}) for number in range(30))
        )
        assert [answer.result_rows for answer in answers] == [[(n,)] for n in range(30)]
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
            await client.query("SELECT * FROM nosuch")
    finally:
        await client.close()


CODED = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4.frame.compress,
}


@pytest.mark.parametrize("coding", CODED)
def test_codings_in_both_directions(server: ClickHouseServer, table: str, coding: str) -> None:
    rows = b"".join(b'{"n":%d,"s":"x"}\n' % number for number in range(50_000))
    body = CODED[coding](f"INSERT INTO {table} FORMAT JSONEachRow\n".encode() + rows)
    made = server.ask(body, headers={"Content-Encoding": coding})
    assert made.status == 200, made.body
    assert json.loads(made.headers["x-clickhouse-summary"])["written_rows"] == "50000"
    ask = f"SELECT n FROM {table} ORDER BY n"
    plain = server.ask(ask)
    coded = server.ask(ask, headers={"Accept-Encoding": f"br, {coding}"})
    assert coded.headers["content-encoding"] == coding
    undo = {
        "gzip": gzip.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
        "lz4": lz4.frame.decompress,
    }[coding]
    assert undo(coded.body) == plain.body == b"".join(b"%d\n" % n for n in range(50_000))


@pytest.mark.parametrize(
    "name",
    ["TabSeparatedWithNames", "CSVWithNames", "RowBinaryWithNamesAndTypes", "Native", "Parquet"],
)
def test_many_blocks_are_one_answer(server: ClickHouseServer, name: str) -> None:
    sql = "SELECT number AS n, toString(number) AS s FROM numbers(200000)"
    body = server.ask(f"{sql} FORMAT {name}").body
    server.ask("CREATE TABLE IF NOT EXISTS back (n UInt64, s String) ENGINE = Memory")
    server.ask("TRUNCATE TABLE back")
    limit = MAX_INSERT_BYTES // 2  # what was answered can be inserted again, whatever its size
    if len(body) <= limit * 2:
        made = server.ask(body, query=f"INSERT INTO back FORMAT {name}")
        assert made.status == 200, made.body
        assert server.ask("SELECT count(), sum(n) FROM back").body == b"200000\t19999900000\n"
    assert len(body) > 500_000


def test_inserts_in_every_shape(server: ClickHouseServer, table: str) -> None:
    shapes = [
        (f"INSERT INTO {table} VALUES (1, 'a', 1)", {}),
        (f"INSERT INTO {table} (n, s) SELECT 2, 'b'", {}),
        (f"INSERT INTO {table} (n, s) FORMAT CSV\n3,c\n", {}),
        ('{"n":4,"s":"d"}', {"query": f"INSERT INTO {table} FORMAT JSONEachRow"}),
        ("(5, 'e', 1)", {"query": f"INSERT INTO {table} VALUES"}),
        ("6\tf\t1\n", {"query": "INSERT INTO {t:Identifier} FORMAT TSV", "param_t": table}),
        ("", {"query": f"INSERT INTO {table} (n) VALUES (7)"}),
    ]
    for body, fields in shapes:
        answer = server.ask(body, **fields)
        assert answer.status == 200, answer.body
    assert server.ask(f"SELECT groupArray(n) FROM (SELECT n FROM {table} ORDER BY n)").body == (
        b"[1,2,3,4,5,6,7]\n"
    )
    bad = server.ask(f"INSERT INTO {table} FORMAT CSV\nnonsense,x,1\n")
    assert (bad.status, bad.code) == (400, 27)


def test_sessions_keep_tables_and_settings(server: ClickHouseServer) -> None:
    with clickhouse_connect.get_client(**server.login) as client:  # names its own session
        client.command("CREATE TEMPORARY TABLE mine (a Int8)")
        client.insert("mine", [[1], [2]], column_names=["a"])
        assert client.command("SELECT sum(a) FROM mine") == 3
    ours = {"session_id": "s1"}
    server.ask("SET max_block_size = 77", **ours)
    # What is made in one piece is bounded, and only that.
    limit = "SELECT getSetting('max_result_bytes')"
    whole = server.ask(f"{limit} AS a FORMAT JSONCompact", **ours).body
    assert json.loads(whole)["data"] == [[536870912]]
    assert server.ask(limit, **ours).body == b"0\n"
    value = "SELECT getSetting('max_block_size')"
    assert server.ask(value, **ours).body == b"77\n"
    assert server.ask(value, **ours, max_block_size="55").body == b"55\n"
    assert server.ask(value, **ours).body == b"77\n"
    assert server.ask(value, session_id="s2").body != b"77\n"
    assert server.ask("SELECT currentDatabase()", **ours, database="system").body == b"system\n"
    assert server.ask("SELECT currentDatabase()", **ours).body == b"fungible\n"
    unknown = server.ask("SELECT 1", session_id="s3", session_check="1")
    assert (unknown.status, unknown.code) == (404, 372)
    # Of another user of the same name there is another session.
    assert server.ask(value, **ours, user=READER).body != b"77\n"
    server.ask(value, **ours, close_session="1")
    assert server.ask(value, **ours, session_check="1").code == 372


def test_a_session_serves_one_at_a_time(server: ClickHouseServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.ask, "SELECT sleep(2)", session_id="busy")
        running = "SELECT count() > 1 FROM system.processes WHERE query LIKE '%sleep(2)%'"
        while server.ask(running).body == b"0\n" and not slow.done():
            time.sleep(0.02)
        assert server.ask("SELECT 1", session_id="busy").code == 373
        assert slow.result().status == 200
    assert server.ask("SELECT 1", session_id="busy").status == 200


def test_a_session_ends_when_it_idles(server: ClickHouseServer) -> None:
    short = {"session_id": "short", "session_timeout": "1"}
    server.ask("CREATE TEMPORARY TABLE mine (a Int8)", **short)
    assert server.ask("SELECT count() FROM mine", **short).body == b"0\n"
    time.sleep(1.5)
    assert server.ask("SELECT count() FROM mine", **short).code == 60


@pytest.mark.parametrize(
    "user", [("fungible", "wrong"), ("bi", "wrong"), ("nobody", "x"), ("fungible", READER_TOKEN)]
)
def test_others_are_refused(server: ClickHouseServer, user: tuple[str, str]) -> None:
    answer = server.ask("SELECT 1", user=user)
    assert (answer.status, answer.code) == (403, 516)
    assert READER_TOKEN.encode() not in answer.body
    with pytest.raises(DatabaseError, match="516"):
        clickhouse_connect.get_client(**server.login | {"password": "wrong"})


def test_without_a_password_it_asks_for_one(server: ClickHouseServer) -> None:
    answer = server.ask("SELECT 1", user=("fungible", ""))
    assert (answer.status, answer.code) == (401, 194)
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_readers_read(server: ClickHouseServer) -> None:
    with clickhouse_connect.get_client(**server.reader_login) as client:
        assert client.query("SELECT count() FROM attempts").result_rows == [(0,)]
        assert client.command("SELECT count() FROM attempts", settings={"max_threads": 1}) == 0
    assert server.ask("SELECT currentDatabase()", user=READER, database="default").body == (
        b"fungible\n"
    )
    assert server.ask("SHOW TABLES", user=READER).status == 200


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("INSERT INTO t VALUES (1, 'a', 1)", 164),
        ("INSERT INTO t SELECT 1, 'a', 1", 164),
        ("DROP TABLE t", 164),
        ("CREATE TEMPORARY TABLE x (a Int8)", 164),
        ("SET max_threads = 1", 164),
        ("KILL QUERY WHERE 1", 164),
        ("SYSTEM FLUSH LOGS", 164),
        ("SELECT 1 INTO OUTFILE '/tmp/fungible-outfile'", 164),
        ("SELECT 1; DROP TABLE t", 62),
        ("graph = 1 SELECT 1; DROP TABLE t", 62),
        ("SELECT file('/etc/passwd')", 497),
        ("SELECT * FROM file('/etc/passwd', LineAsString)", 497),
        ("SELECT * FROM default.`/etc/passwd`", 497),
        ("SELECT * FROM url('http://127.0.0.1:9/', LineAsString)", 497),
        ("SELECT 1 SETTINGS max_memory_usage = 0", 452),
        ("SELECT 1 SETTINGS `max\\x5fmemory_usage` = 0", 452),
        ("SELECT 1 SETTINGS readonly = 0", 164),
        ("SELECT number FROM numbers(20000)", 396),
    ],
)
def test_readers_do_nothing_else(server: ClickHouseServer, sql: str, code: int) -> None:
    answer = server.ask(sql, user=READER)
    assert answer.code == code, answer.body
    assert b"root:" not in answer.body
    assert server.ask(sql, user=READER, session_id="reader").code == code
    assert not Path("/tmp/fungible-outfile").exists()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"max_memory_usage": "0"}, 452),
        ({"readonly": "0", "max_execution_time": "0"}, 452),
        ({"enable_analyzer": "0"}, 452),
    ],
)
def test_readers_keep_their_limits(
    server: ClickHouseServer, fields: dict[str, str], code: int
) -> None:
    assert server.ask("SELECT 1", user=READER, **fields).code == code


def test_what_is_got_changes_nothing(server: ClickHouseServer) -> None:
    for query in ("DROP TABLE t", "INSERT INTO t VALUES (1)", "SELECT file('/etc/passwd')"):
        assert server.ask(method="GET", query=query).code in (164, 497)
    assert server.ask("DROP TABLE t", readonly="1").code == 164
    assert server.ask("EXISTS TABLE t").body == b"1\n"


def test_errors_have_clickhouses_codes(server: ClickHouseServer) -> None:
    cases = [
        ("SELECT * FROM nosuch", {}, 404, 60),
        ("SELECT 1", {"database": "nosuch"}, 404, 81),
        ("SELEC 1", {}, 400, 62),
        ("SELECT nosuch(1)", {}, 404, 46),
        ("SELECT 1", {"nosuch_setting": "1"}, 404, 115),
        ("SELECT 1", {"compress": "1"}, 501, 48),
        ("SELECT {x:Int8}", {}, 400, 456),
        ("SELECT 1; SELECT 2", {}, 400, 62),
        (b"SELECT '\xff'", {}, 400, 62),
        ("", {}, 400, 62),
    ]
    for sql, fields, status, code in cases:
        answer = server.ask(sql, **fields)
        assert (answer.status, answer.code) == (status, code), (sql, answer.body)
        assert answer.body.startswith(b"Code: %d. DB::Exception: " % code)


def test_too_much_is_refused(server: ClickHouseServer, table: str) -> None:
    long = server.ask(b"SELECT '" + b"x" * 1_100_000 + b"'")
    assert (long.status, long.code) == (413, 223)
    rows = b"INSERT INTO t (n) FORMAT CSV\n" + b"1\n" * MAX_INSERT_BYTES
    large = server.ask(gzip.compress(rows), headers={"Content-Encoding": "gzip"})
    assert large.status == 413
    assert server.ask(f"SELECT count() FROM {table}").body == b"0\n"


def test_a_client_that_leaves_ends_its_query(server: ClickHouseServer) -> None:
    running = "SELECT count() FROM system.processes WHERE query LIKE '%100000000001%'"
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"X-ClickHouse-User": "fungible", "X-ClickHouse-Key": server.token}
    sql = "SELECT count() FROM numbers(100000000001) WHERE sipHash64(number) = 1"
    connection.request("POST", "/", sql, headers)
    deadline = time.monotonic() + 20
    while server.ask(running).body == b"1\n" and time.monotonic() < deadline:
        time.sleep(0.05)  # the asking query itself holds the number, too
    assert server.ask(running).body == b"2\n"
    connection.close()
    while server.ask(running).body == b"2\n" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.ask(running).body == b"1\n"


def test_more_statements_than_lanes_wait_their_turn(server: ClickHouseServer) -> None:
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda _: server.ask("SELECT sleep(0.2)"), range(60)))
    busy = [answer for answer in answers if answer.status != 200]
    # Four run and 32 wait; what more came at once was told to come again.
    assert {(answer.status, answer.code) for answer in busy} <= {(503, 202)}
    assert len(answers) - len(busy) >= 36
    assert all(answer.headers["retry-after"] for answer in busy)


def test_the_ledger_itself_goes_through_it(server: ClickHouseServer) -> None:
    base = f"clickhouse://fungible:{server.token}@127.0.0.1:{server.port}"
    store = open_store(f"{base}/through")
    try:
        assert store.migrate()
        assert store.migrate() == []
        lease = LeaseEvent(lease_id="l", backend="b", accelerator="a", started_ns=1, seen_ns=2)
        for _ in range(2):
            store.insert([lease], "segment")
        assert store.query("SELECT count() FROM leases", readonly=True).rows == [(1,)]
        assert store.query("SELECT lease_id FROM leases WHERE 0", readonly=True).columns == [
            "lease_id"
        ]
    finally:
        store.close()
    with pytest.raises(UnavailableError) as raised:
        open_store(f"clickhouse://fungible:wrong-secret@127.0.0.1:{server.port}/x")
    assert "wrong-secret" not in str(raised.value)


def test_control_stops_although_a_statement_runs(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path)
    with server, ThreadPoolExecutor(1) as pool:
        server.ask("CREATE TEMPORARY TABLE mine (a Int8)", session_id="open")
        endless = "SELECT count() FROM numbers(100000000002) WHERE sipHash64(number) = 1"
        asked = pool.submit(server.ask, endless)
        running = "SELECT count() FROM system.processes WHERE query LIKE '%100000000002%'"
        while server.ask(running).body == b"1\n" and not asked.done():
            time.sleep(0.02)
        assert server.stop() == 0
        answer = asked.result()
    assert (answer.status, answer.code) == (503, 394)
    assert not (tmp_path / "run" / "control.json").exists()


def test_it_listens_on_loopback_only(server: ClickHouseServer) -> None:
    pid = json.loads((server.home / "run" / "control.json").read_text())["pid"]
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.laddr.port == server.port and connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert os.getpid() != pid
