"""Nightly evals: each verdict becomes the state of its task, and two nights are compared."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from answering import answering
from product import Product
from runs import Run

NIGHT = datetime(2026, 11, 3, 1, 30, tzinfo=UTC)
NEXT = datetime(2026, 11, 4, 1, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 questions, of which `Paris` answers 80: enough to tell a loss of five points."""
    path = tmp_path_factory.mktemp("suite") / "cities.jsonl"
    lines = [{"suite": "cities"}]
    for number in range(100):
        right = "Paris" if number % 5 else "Rome"
        lines.append(
            {
                "id": f"city-{number}",
                "cluster": f"city-{number}",
                "messages": [{"role": "user", "content": f"Which city is number {number}?"}],
                "max_tokens": 5,
                "scorer": {"kind": "contains", "answers": [right]},
            }
        )
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def config(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three backends with probabilities; control runs over the same home."""
    path = tmp_path_factory.mktemp("evals") / "fungible.toml"
    with answering("Paris") as right, answering("Oslo") as wrong:
        places = {"reference": right, "same": right, "worse": wrong}
        tables = [f'[backend.{name}]\nurl = "{url}"' for name, url in places.items()]
        route = '[route.assistant]\nreference = "reference"\nbackends = ["same", "worse"]'
        path.write_text("\n".join([f'home = "{product.home}"', *tables, route]))
        yield path


@pytest.fixture(autouse=True)
def _settings(
    fungible: Product, suite: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNGIBLE_CONFIG", str(config))
    monkeypatch.setenv("FUNGIBLE_EVAL_SUITE", str(suite))


def test_verdicts_of_a_night_and_the_change_since_the_night_before(
    run_dag: Callable[..., Run],
    fungible: Product,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FUNGIBLE_EVAL_BACKENDS", "same, worse")
    monkeypatch.setenv("FUNGIBLE_EVAL_RESULTS", str(tmp_path))

    first = run_dag("fungible_evals", logical_date=NIGHT, retry=1)

    assert first.states["run"] == ["success", "failed"]
    assert first.tries["run"] == 1, "a verdict is an answer: asking again is no remedy"
    assert first.xcom("run", map_index=0)["outcome"] == "pass"
    assert first.xcom("run", key="answer", map_index=1)["outcome"] == "fail"
    assert first.states["drift"] == "skipped"
    assert first.state == "failed"
    fungible.wait_for(
        "SELECT candidate, outcome FROM verdicts ORDER BY candidate",
        [["same", "pass"], ["worse", "fail"]],
    )

    second = run_dag("fungible_evals", logical_date=NEXT)

    assert second.states["run"] == ["success", "failed"]
    assert second.states["drift"] == ["success", "failed"]
    assert second.xcom("drift", map_index=0)["candidate_score"] == 0.8
    assert second.xcom("drift", key="answer", map_index=1)["outcome"] == "refused"


def test_no_candidate_is_a_skip_and_an_unknown_suite_fails_at_once(
    run_dag: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = run_dag("fungible_evals", logical_date=datetime(2026, 11, 5, tzinfo=UTC))
    assert idle.states["candidates"] == "skipped"
    assert idle.state == "success"

    monkeypatch.setenv("FUNGIBLE_EVAL_BACKENDS", "same")
    monkeypatch.setenv("FUNGIBLE_EVAL_SUITE", "no-such-suite")
    wrong = run_dag("fungible_evals", logical_date=datetime(2026, 11, 6, tzinfo=UTC), retry=1)
    assert wrong.states["run"] == ["failed"]
    assert wrong.tries["run"] == 1
