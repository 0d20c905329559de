"""What readers may ask, judged by the engine's own parser."""

import pytest

from fungible.errors import QueryError
from fungible.ledger.guard import Parts, fixed_setting, is_fixed
from fungible.ledger.store import Store

ALLOWED = [
    "SELECT a AS `cost/token`, b AS `default` FROM attempts",
    "SELECT count() FROM numbers(10) AS n, generate_series(1, 3), values('a Int8', 1)",
    "WITH x AS (SELECT 1 AS file) SELECT file FROM x",
    "SELECT * FROM view(SELECT 1)",
    "SELECT aiR FROM (SELECT 1 AS aiR)",
    "DESCRIBE TABLE (SELECT 1)",
    "SHOW TABLES",
    "EXPLAIN SELECT 1",
    "SELECT 'SELECT file(1)', $$default.x$$",
]
REFUSED = [
    "SELECT file('/etc/passwd')",
    "SELECT File('/etc/passwd')",
    "SELECT `file`('/etc/passwd')",
    "WITH file('x') AS z SELECT z",
    "SELECT * FROM file('/etc/passwd', LineAsString)",
    "SELECT * FROM FILE('/etc/passwd', LineAsString)",
    "SELECT * FROM (SELECT * FROM url('http://127.0.0.1', LineAsString))",
    "SELECT * FROM view(SELECT * FROM s3('x'))",
    "SELECT 1 WHERE 1 IN (SELECT 1 FROM remote('h', system.one))",
    "SELECT * FROM numbers(1) AS a JOIN python('x') AS b ON 1",
    "SELECT * FROM executable('x', TSV, 'a Int8')",
    "SELECT * FROM merge('system', '.*')",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM default.`/etc/passwd`",
    "SELECT 1 IN default.`/etc/passwd`",
    "SELECT * FROM `default`.x AS `y`",
    "DESCRIBE TABLE file('x')",
    "DESCRIBE TABLE default.`/etc/passwd`",
    "SHOW CREATE TABLE default.`/etc/passwd`",
    "EXPLAIN SELECT file('x')",
    "SELECT aiGenerate('x')",
    "SELECT 1 UNION ALL SELECT file('x')",
    "SELECT [1, (2, file('x'))]",
    "SELECT arrayMap(x -> file(x), ['a'])",
]


def parts(store: Store, sql: str) -> Parts:
    with store._client() as client:
        lines = client.query(f"EXPLAIN AST {sql}").result_rows
    return Parts("\n".join(line for (line,) in lines))


def test_what_reads_the_ledger_is_allowed(store: Store) -> None:
    for sql in ALLOWED:
        assert parts(store, sql).refused() == "", sql


def test_what_reads_files_or_the_network_is_not(store: Store) -> None:
    for sql in REFUSED:
        assert parts(store, sql).refused(), sql


def test_settings_are_seen(store: Store) -> None:
    assert not parts(store, "SELECT 1").has_settings
    nested = "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)"
    assert parts(store, nested).has_settings


@pytest.mark.parametrize("name", ["readonly", "max_execution_time", "format_template_row"])
def test_limits_are_fixed(name: str) -> None:
    assert is_fixed(name)
    assert fixed_setting(f"SELECT 1 SETTINGS max_threads = 1, {name} = 0") == name
    assert not fixed_setting("SELECT 1 SETTINGS max_threads = 1")


def test_the_console_reads_the_ledger_only(store: Store) -> None:
    for sql in REFUSED:
        with pytest.raises(QueryError):
            store.query(sql, readonly=True)
    for sql in ("SELECT 1; SELECT file('/etc/passwd')", "graph = 1 SELECT 1; DROP TABLE leases"):
        with pytest.raises(QueryError) as raised:
            store.query(sql, readonly=True)
        assert "root:" not in raised.value.message
    assert store.query("SELECT ';' AS a -- ;", readonly=True).rows == [(";",)]
