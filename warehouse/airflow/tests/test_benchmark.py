"""Tuesday's benchmark: replays and comparisons; what is not there is asked for again."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from product import Product
from runs import Run

TUESDAY = datetime(2026, 11, 3, 3, tzinfo=UTC)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight requests in a fifth of a second."""
    path = tmp_path / "short.jsonl"
    rows = [
        {"timestamp": 25 * number, "input_length": 4, "output_length": 2} for number in range(8)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("FUNGIBLE_BENCH_TRACE", str(path))
    return path


@pytest.mark.usefixtures("trace")
def test_backends_are_replayed_and_compared(
    run_dag: Callable[..., Run], fungible: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNGIBLE_BENCH_BACKENDS", "reference same")

    done = run_dag("fungible_benchmark", logical_date=TUESDAY, retry=3)

    assert done.state == "success"
    assert done.states["replay"] == ["success", "success"]
    assert [done.xcom("replay", map_index=at)["backend"] for at in (0, 1)] == ["reference", "same"]
    ratio = done.xcom("compare", map_index=0)["ratio"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    fungible.wait_for(
        "SELECT DISTINCT backend FROM attempts WHERE kind = 'bench' ORDER BY backend",
        [["reference"], ["same"]],
    )


@pytest.mark.usefixtures("fungible", "trace")
def test_a_backend_that_is_away_is_tried_again_and_then_fails(
    run_dag: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNGIBLE_BENCH_BACKENDS", "gone")

    done = run_dag("fungible_benchmark", logical_date=datetime(2026, 11, 10, tzinfo=UTC), retry=1)

    assert done.states["replay"] == ["failed"]
    assert done.tries["replay"] == 2
    assert done.xcom("replay", key="answer", map_index=0)["invalid"]
    assert done.state == "failed"
