"""The DDL as replicated servers get it.

No server with a Keeper is at hand, so this shows only that the text is right and that the
engine's own parser takes it; that replicas agree is for a real cluster to show.
"""

import json
import re

import pytest
from click.testing import CliRunner

from fungible.cli.warehouse import warehouse
from fungible.errors import ConfigError
from fungible.ledger.clients import parse_dsn
from fungible.ledger.schema import BOOKKEEPING, Layout, render, script, statements, steps
from fungible.ledger.store import Store, open_store

CLUSTER = Layout(engine="replicated", cluster="main")
PATH = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"


@pytest.mark.parametrize(
    ("plain", "replicated"),
    [
        ("ENGINE = MergeTree\nORDER BY a", f"ENGINE = ReplicatedMergeTree({PATH})\nORDER BY a"),
        ("ENGINE=MergeTree() ORDER BY a", f"ENGINE = ReplicatedMergeTree({PATH}) ORDER BY a"),
        (
            "ENGINE = ReplacingMergeTree(v, d)",
            f"ENGINE = ReplicatedReplacingMergeTree({PATH}, v, d)",
        ),
        ("ENGINE = AggregatingMergeTree", f"ENGINE = ReplicatedAggregatingMergeTree({PATH})"),
        (
            "SETTINGS non_replicated_deduplication_window = 9",
            "SETTINGS replicated_deduplication_window = 9",
        ),
        ("ENGINE = Memory", "ENGINE = Memory"),
    ],
)
def test_engines_become_replicated(plain: str, replicated: str) -> None:
    assert render(plain, Layout(engine="replicated")) == replicated
    assert render(replicated, Layout(engine="replicated")) == replicated
    assert render(plain, Layout()) == plain


@pytest.mark.parametrize(
    ("plain", "named"),
    [
        (
            "CREATE TABLE IF NOT EXISTS t (a Int8)",
            "CREATE TABLE IF NOT EXISTS t ON CLUSTER `main` (a Int8)",
        ),
        (
            "CREATE OR REPLACE VIEW db.v AS SELECT 1",
            "CREATE OR REPLACE VIEW db.v ON CLUSTER `main` AS SELECT 1",
        ),
        (
            "CREATE MATERIALIZED VIEW m TO t AS SELECT 1",
            "CREATE MATERIALIZED VIEW m ON CLUSTER `main` TO t AS SELECT 1",
        ),
        ("ALTER TABLE t ADD COLUMN x Int8", "ALTER TABLE t ON CLUSTER `main` ADD COLUMN x Int8"),
        ("DROP VIEW IF EXISTS v", "DROP VIEW IF EXISTS v ON CLUSTER `main`"),
        (
            "CREATE DATABASE IF NOT EXISTS `d`",
            "CREATE DATABASE IF NOT EXISTS `d` ON CLUSTER `main`",
        ),
        ("RENAME TABLE a TO b, c TO d", "RENAME TABLE a TO b, c TO d ON CLUSTER `main`"),
        ("INSERT INTO t SELECT 1", "INSERT INTO t SELECT 1"),
    ],
)
def test_statements_name_the_cluster(plain: str, named: str) -> None:
    assert render(plain, Layout(cluster="main")) == named


def test_a_statement_that_is_not_understood_is_refused() -> None:
    with pytest.raises(ConfigError, match="CREATE USER u"):
        render("CREATE USER u", CLUSTER)
    with pytest.raises(ConfigError, match="cluster"):
        Layout(cluster="x; DROP TABLE y")


def test_every_packaged_statement_parses_as_rendered(store: Store) -> None:
    text = "\n".join([BOOKKEEPING + ";", *(step.sql for step in steps().values())])
    rendered = list(statements(render(text, CLUSTER)))
    assert len(rendered) == len(list(statements(text)))
    for statement in rendered:
        if re.match("CREATE|ALTER|DROP|RENAME", statement):
            assert "ON CLUSTER `main`" in statement
        assert not re.search(r"ENGINE = (?!Replicated)\w*MergeTree", statement)
        assert store.query(f"EXPLAIN AST {statement}").rows


def test_an_administrator_can_run_the_script(dsn: str) -> None:
    text = CliRunner().invoke(warehouse, ["ddl"], catch_exceptions=False).stdout
    assert text == script(Layout()) + "\n"
    opened = open_store(dsn)
    try:
        for statement in statements(text):
            _run(opened, statement)
        assert opened.migrate() == []
    finally:
        opened.close()


def _run(store: Store, statement: str) -> None:
    with store._client() as client:
        client.command(statement)


def test_the_command_prints_the_steps_as_data() -> None:
    arguments = ["ddl", "--engine", "replicated", "--cluster", "main", "--json"]
    said = json.loads(CliRunner().invoke(warehouse, arguments, catch_exceptions=False).stdout)
    assert [step["version"] for step in said["steps"]] == list(steps())
    assert "ReplicatedMergeTree" in said["bookkeeping"]


def test_the_address_says_how_tables_are_made() -> None:
    assert parse_dsn("clickhouse://h/d?engine=replicated&cluster=main").layout == CLUSTER
    assert parse_dsn("clickhouse://h/d").layout == Layout()
    with pytest.raises(ConfigError, match="engine=shared"):
        parse_dsn("clickhouse://h/d?engine=shared")
