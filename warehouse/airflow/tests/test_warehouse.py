"""The marts: one task for all of them, or through Cosmos a task for each model and test."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from product import Product
from runs import DAGS, Run, parse

AT = datetime(2026, 11, 4, 9, 20, tzinfo=UTC)
MART = "cost_by_customer"


@pytest.fixture(autouse=True)
def _dbt(dbt_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNGIBLE_DBT", str(dbt_binary))


@pytest.fixture
def cosmos(fungible: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings for Cosmos: the manifest of the last build, and where control's endpoint is."""
    announced = json.loads((fungible.home / "run" / "control.json").read_text())
    host, port = announced["clickhouse"].removeprefix("http://").split(":")
    token = (fungible.home / "run" / "control.token").read_text().strip()
    manifest = fungible.home / "warehouse" / "target" / "manifest.json"
    if not manifest.is_file():
        fungible.ask("warehouse", "build")
    monkeypatch.setenv("FUNGIBLE_WAREHOUSE", "cosmos")
    monkeypatch.setenv("FUNGIBLE_DBT_MANIFEST", str(manifest))
    monkeypatch.setenv("FUNGIBLE_CLICKHOUSE_HOST", host)
    monkeypatch.setenv("FUNGIBLE_CLICKHOUSE_PORT", port)
    monkeypatch.setenv("DBT_ENV_SECRET_FUNGIBLE_PASSWORD", token)


def test_one_task_builds_and_tests_all_marts(
    fungible: Product, run_dag: Callable[..., Run]
) -> None:
    done = run_dag("fungible_warehouse", logical_date=AT)

    assert done.state == "success"
    built = done.xcom("build")
    assert built["ok"]
    assert MART in [node["name"] for node in built["nodes"]]


@pytest.mark.usefixtures("cosmos")
def test_cosmos_has_a_task_for_each_model_and_runs_dbt_from_its_own_environment(
    fungible: Product, run_dag: Callable[..., Run]
) -> None:
    from cosmos.operators.local import DbtRunLocalOperator

    dag: Any = parse(DAGS).dags["fungible_warehouse"]
    runs = [task.task_id for task in dag.tasks if isinstance(task, DbtRunLocalOperator)]
    manifest = json.loads(Path(os.environ["FUNGIBLE_DBT_MANIFEST"]).read_text())
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert len(runs) == len(models) > 20
    chosen = next(name for name in runs if MART in name)

    done = run_dag(
        "fungible_warehouse",
        logical_date=AT.replace(hour=10),
        mark_success_pattern=f"(?!{chosen}$).*",
    )

    assert set(done.states.values()) == {"success"}
