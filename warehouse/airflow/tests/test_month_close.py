"""Month close: what adds up is closed, what does not fails with a page that says why."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import october
from product import Product
from runs import DAGS, Run, parse


@pytest.fixture
def inbox(tmp_path: Path, fungible: Product, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUNGIBLE_INBOX", str(tmp_path))
    return tmp_path


def close(run_dag: Callable[..., Run], month: str) -> Run:
    return run_dag("fungible_month_close", logical_date=None, run_conf={"month": month}, retry=1)


def test_a_month_is_closed_when_the_bill_is_explained_and_not_otherwise(
    inbox: Path, fungible: Product, run_dag: Callable[..., Run]
) -> None:
    october.put(inbox / "prices" / "october.csv", october.PRICES)
    october.put(inbox / "responses" / october.FOLDER / "log.jsonl", october.response())
    october.put(inbox / "invoices" / "october.csv", october.invoice("0.80"))
    at = datetime(2026, 11, 4, 8, tzinfo=UTC)
    imports = (
        run_dag("fungible_prices", logical_date=at),
        run_dag("fungible_responses", logical_date=datetime(2026, 10, 20, 10, tzinfo=UTC)),
        run_dag("fungible_invoices", logical_date=at),
    )
    assert [run.state for run in imports] == ["success"] * 3
    priced = "SELECT toString(cost) FROM attempts WHERE issuer = 'hosted'"
    fungible.wait_for(priced, [["2.8"]])

    closed = close(run_dag, "2026-10")

    assert closed.state == "success"
    assert closed.xcom("decide") == "within"
    page = closed.xcom("report")
    assert "| 2.80 | 2.80 | 0.00 | 0.00 | 0.000% |" in page

    october.put(inbox / "invoices" / "october.csv", october.invoice("0.90"))
    assert run_dag("fungible_invoices", logical_date=at.replace(hour=9)).state == "success"
    fungible.wait_for("SELECT count() > 2 FROM invoice_lines", [[1]])

    disputed = close(run_dag, "2026-10")

    assert disputed.states == {"reconcile": "success", "report": "success", "decide": "failed"}
    assert disputed.state == "failed"
    assert disputed.tries["decide"] == 1
    page = disputed.xcom("report")
    assert "More is unexplained" in page
    assert "| hosted | out | 2026-10-20 | 0.90 | 0.80 | 0.10 |" in page


def test_a_month_that_is_none_fails_at_once(fungible: Product, run_dag: Callable[..., Run]) -> None:
    done = close(run_dag, "October")
    assert done.states["reconcile"] == "failed"
    assert done.tries["reconcile"] == 1


def test_a_person_approves_where_that_is_asked_for(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNGIBLE_APPROVAL", "1")
    dag: Any = parse(DAGS).dags["fungible_month_close"]
    approve = dag.get_task("approve")
    assert approve.upstream_task_ids == {"decide"}
    assert approve.fail_on_reject
    assert [asset.uri for asset in approve.outlets] == ["fungible://warehouse/month"]
    assert not dag.get_task("decide").outlets
