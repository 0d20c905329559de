"""Airflow's own ClickHouse provider reads the ledger through control's endpoint."""

import json

import pytest

from product import Product


def test_the_hook_reads_what_the_command_line_reads(
    fungible: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.clickhousedb.hooks.clickhouse import ClickHouseHook

    announced = json.loads((fungible.home / "run" / "control.json").read_text())
    host, port = announced["clickhouse"].removeprefix("http://").split(":")
    connection = {
        "conn_type": "clickhouse",
        "host": host,
        "port": int(port),
        "login": "fungible",
        "password": (fungible.home / "run" / "control.token").read_text().strip(),
        "schema": "fungible",
    }
    monkeypatch.setenv("AIRFLOW_CONN_FUNGIBLE_LEDGER", json.dumps(connection))
    question = "SELECT name FROM system.tables WHERE database = 'fungible' ORDER BY name"

    hook = ClickHouseHook(clickhouse_conn_id="fungible_ledger")
    found = [list(row) for row in hook.get_records(question)]

    assert ["attempts"] in found
    assert found == fungible.rows(question)
