"""Where a statement ends and its rows begin, however the bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.control.clickhouse.statement import Statement, read_statement

INSERTS = [
    (b"INSERT INTO t FORMAT Native\n", "Native", b"INSERT INTO t "),
    (
        b"insert into t (a, `format`) format JSONEachRow ",
        "JSONEachRow",
        b"insert into t (a, `format`) ",
    ),
    (b"INSERT INTO format VALUES", "Values", b"INSERT INTO format "),
    (b"INSERT INTO values.format (format, values) FORMAT CSV\r\n", "CSV", None),
    (
        b"INSERT /* FORMAT x */ INTO TABLE t -- VALUES\n (a) SETTINGS x = 'VALUES' VALUES",
        "Values",
        None,
    ),
    (b"INSERT INTO FUNCTION remote('a', 'b VALUES') FORMAT RowBinary\n", "RowBinary", None),
    (b"  # comment\n INSERT INTO t FORMAT Arrow\n", "Arrow", None),
]


def read(text: bytes, *, whole: bool = True) -> Statement:
    found = read_statement(text, whole=whole)
    assert found is not None
    return found


@pytest.mark.parametrize(("head", "format_", "sql"), INSERTS)
@given(rows=st.binary(min_size=2, max_size=40))
def test_rows_are_cut_at_the_same_byte_however_they_arrive(
    head: bytes, format_: str, sql: bytes | None, rows: bytes
) -> None:
    if head[-1:] in b" S":
        rows = b"(" + rows  # what follows blanks or a word begins with something else
    text = head + rows
    whole = read(text)
    assert (whole.format, text[whole.rows_at :]) == (format_, rows)
    assert whole.sql == (sql if sql is not None else whole.sql)
    for at in range(len(text) + 1):
        early = read_statement(text[:at], whole=False)
        if early is not None:
            assert (early.sql, early.format, early.rows_at) == (
                whole.sql,
                whole.format,
                whole.rows_at,
            ), at


@given(rows=st.binary(min_size=1))
def test_a_query_in_the_address_leaves_the_whole_body_to_rows(rows: bytes) -> None:
    found = read(b"INSERT INTO t FORMAT RowBinary" + b"\n" + rows)
    assert (b"INSERT INTO t FORMAT RowBinary\n" + rows)[found.rows_at :] == rows


@pytest.mark.parametrize(
    ("sql", "format_"),
    [
        ("SELECT 1", ""),
        ("SELECT 1 FORMAT JSON", "JSON"),
        ("SELECT 1 format JSONCompact;", "JSONCompact"),
        ("SELECT 1 FORMAT TSV SETTINGS max_threads = 1", "TSV"),
        ("SELECT 1 SETTINGS max_threads = 1 FORMAT TSV", "TSV"),
        ("SELECT a AS format FROM t", ""),
        ("SELECT a format FROM t", ""),
        ("SELECT 'x FORMAT JSON'", ""),
        ("SELECT 1 -- FORMAT JSON", ""),
        ("SELECT * FROM (SELECT 1 FORMAT JSON)", ""),
        ("SELECT format('{}', 1)", ""),
        ("INSERT INTO t SELECT 1", ""),
    ],
)
def test_the_asked_format(sql: str, format_: str) -> None:
    found = read(sql.encode())
    assert (found.format, found.rows_at) == (format_, -1)


@pytest.mark.parametrize(
    ("sql", "reads", "streams"),
    [
        ("(SELECT 1) UNION ALL (SELECT 2)", True, True),
        ("WITH 1 AS x SELECT x", True, True),
        ("/* a */ SHOW TABLES", True, False),
        ("explain select 1", True, False),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", False, False),
        ("", False, False),
    ],
)
def test_what_answers_with_rows(sql: str, reads: bool, streams: bool) -> None:
    found = read(sql.encode())
    assert (found.reads, found.streams) == (reads, streams)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_waited_for(text: bytes) -> None:
    found = read(text)
    assert -1 <= found.rows_at <= len(text)


def test_a_statement_without_rows_waits_for_its_end() -> None:
    assert read_statement(b"SELECT 1", whole=False) is None
    assert read_statement(b"INSERT INTO t SELECT 1", whole=False) is None
    assert read_statement(b"INSERT INTO t FORMAT JSON", whole=False) is None
    assert read_statement(b"INSERT INTO t ('VALUES ", whole=False) is None
