"""Imports by data interval: an hour's folder becomes rows, in any order, twice, or is skipped."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import october
from product import Product
from runs import Run

# The hour of 09:00 is complete, and run, at 10:00.
AFTER = datetime(2026, 10, 20, 10, tzinfo=UTC)
CALL = "SELECT input_tokens, output_tokens, customer FROM attempts WHERE model = 'large'"


@pytest.fixture
def inbox(tmp_path: Path, fungible: Product, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUNGIBLE_INBOX", str(tmp_path))
    return tmp_path


def test_responses_and_traces_of_an_hour_become_one_attempt(
    inbox: Path, fungible: Product, run_dag: Callable[..., Run]
) -> None:
    october.put(inbox / "traces" / october.FOLDER / "spans.json", october.spans())
    october.put(inbox / "responses" / october.FOLDER / "log.jsonl", october.response())

    traced = run_dag("fungible_traces", logical_date=AFTER)
    assert traced.state == "success"
    assert traced.xcom("ingest")["rows"] == 1
    answered = run_dag("fungible_responses", logical_date=AFTER)
    assert answered.state == "success"
    assert answered.xcom("ingest")["rows"] == 1
    fungible.wait_for(CALL, [[1_000_000, 100_000, "acorn"]])

    again = run_dag("fungible_responses", logical_date=AFTER)
    assert again.state == "success"
    fungible.wait_for(CALL, [[1_000_000, 100_000, "acorn"]])


def test_an_hour_long_past_without_files_is_skipped_at_once(
    inbox: Path, run_dag: Callable[..., Run]
) -> None:
    done = run_dag("fungible_responses", logical_date=AFTER.replace(hour=12))
    assert done.states == {"arrive": "skipped", "ingest": "skipped"}


def test_a_file_that_is_no_log_fails_at_once(inbox: Path, run_dag: Callable[..., Run]) -> None:
    october.put(inbox / "responses" / "dt=2026-10-20" / "hour=13" / "log.jsonl", "no json")
    done = run_dag("fungible_responses", logical_date=AFTER.replace(hour=14), retry=1)
    assert done.states["ingest"] == "failed"
    assert done.tries["ingest"] == 1
