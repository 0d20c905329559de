from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fungible.config import BackendSettings, Config
from fungible.contract.events import AttemptEvent, EvalItemEvent
from fungible.errors import InputError, UnavailableError
from fungible.evals.runner import run_suite
from fungible.evals.suite import Suite, load_suite, parse_suite
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher
from support.scripted_upstream import scripted_upstream
from support.spool_records import spool_records

SMALL = parse_suite(
    b'{"suite": "small"}\n'
    + b"\n".join(
        b'{"id": "i%d", "cluster": "c", "messages": [{"role": "user", "content": "say %d"}], '
        b'"max_tokens": 3, "scorer": {"kind": "number", "value": %d}}' % (at, at, at)
        for at in range(12)
    ),
    "small",
)


@asynccontextmanager
async def dispatcher_to(home: Path, url: str = "", **options: Any) -> AsyncIterator[Dispatcher]:
    settings = BackendSettings(url=url) if url else BackendSettings(kind="null", options=options)
    config = Config(home=str(home), backend={"b": settings})
    spool = SpoolWriter(config.spool_path(), "eval")
    dispatcher = Dispatcher(config=config, spool=spool)
    await dispatcher.start()
    try:
        yield dispatcher
    finally:
        await dispatcher.close()
        spool.close()


def echo_number(body: dict[str, Any]) -> str:
    return "the answer " + body["messages"][-1]["content"].split()[-1]


async def run(dispatcher: Dispatcher, suite: Suite = SMALL, **options: Any) -> list[Any]:
    return await run_suite(dispatcher, suite, "b", model="m", run_id="run_1", **options)


async def test_results_follow_the_suite_and_carry_the_distributions(tmp_path: Path) -> None:
    async with scripted_upstream(echo_number) as (url, seen), dispatcher_to(tmp_path, url) as it:
        results = await run(it, concurrency=3)
    assert [one.item_id for one in results] == [item.id for item in SMALL.items]
    assert all(one.score == 1.0 for one in results)
    assert (results[4].text, results[4].output_tokens) == ("the answer 4", 3)
    assert len(results[4].tokens) == 3
    assert len(results[4].tokens[0].top_logprobs) == 3
    body = seen[0]
    assert (body["temperature"], body["logprobs"], body["top_logprobs"]) == (0, True, 20)
    assert body["max_tokens"] == 3
    assert not body.get("stream")


async def test_every_item_is_recorded_with_its_attempt(tmp_path: Path) -> None:
    async with scripted_upstream(echo_number) as (url, _), dispatcher_to(tmp_path, url) as it:
        results = await run(it)
    rows = {row.item_id: row for row in spool_records(tmp_path / "spool", EvalItemEvent)}
    attempts = {row.attempt_id: row for row in spool_records(tmp_path / "spool", AttemptEvent)}
    assert len(rows) == len(attempts) == 12
    for result in results:
        row = rows[result.item_id]
        assert (row.score, row.suite_hash, row.run_id) == (1.0, SMALL.suite_hash, "run_1")
        attempt = attempts[row.attempt_id]
        assert (attempt.kind, attempt.item_id, attempt.run_id) == ("eval", row.item_id, "run_1")
        assert attempt.output_hash == row.output_hash


async def test_failed_requests_are_errors_not_wrong_answers(tmp_path: Path) -> None:
    def status(body: dict[str, Any]) -> int:
        return 500 if body["messages"][-1]["content"] in {"say 3", "say 7"} else 200

    async with (
        scripted_upstream(echo_number, status=status) as (url, _),
        dispatcher_to(tmp_path, url) as it,
    ):
        results = await run(it)
    failed = {one.item_id for one in results if one.score is None}
    assert failed == {"i3", "i7"}
    assert all(one.error for one in results if one.score is None)
    rows = spool_records(tmp_path / "spool", EvalItemEvent)
    assert {row.item_id for row in rows if row.score is None} == failed


async def test_wrong_answers_score_nothing(tmp_path: Path) -> None:
    async with dispatcher_to(tmp_path, text="it is 5") as dispatcher:
        results = await run(dispatcher)
    assert [one.item_id for one in results if one.score] == ["i5"]


async def test_progress_reaches_the_end(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    async with dispatcher_to(tmp_path) as dispatcher:
        await run(dispatcher, progress=lambda done, total: said.append((done, total)))
    assert said[-1] == (12, 12)
    assert len(said) == 12


async def test_bad_input_is_one_error(tmp_path: Path) -> None:
    async with dispatcher_to(tmp_path) as dispatcher:
        with pytest.raises(InputError, match="concurrency"):
            await run(dispatcher, concurrency=0)
        with pytest.raises(UnavailableError, match="nobody"):
            await run_suite(dispatcher, SMALL, "nobody", model="m", run_id="r")


async def test_the_bundled_suite_can_be_answered(tmp_path: Path) -> None:
    """Every right answer, as a model would phrase it, gets its point."""
    suite = load_suite("everyday")
    right = {item.messages[-1].text(): _phrase(item.scorer) for item in suite.items}

    def answer(body: dict[str, Any]) -> str:
        return right[body["messages"][-1]["content"]]

    async with scripted_upstream(answer) as (url, _), dispatcher_to(tmp_path, url) as it:
        results = await run(it, suite)
    assert [one.item_id for one in results if one.score != 1.0] == []


def _phrase(scorer: Any) -> str:
    said: dict[str, Callable[[], str]] = {
        "Exact": lambda: f"{scorer.answer.capitalize()}.",
        "Contains": lambda: f"The answer is {scorer.answers[0].lower()}.",
        "OneOf": lambda: f"{scorer.answer.capitalize()}, I think.",
        "Number": lambda: f"It is {scorer.value:g}.",
        "Regex": lambda: scorer.pattern.replace(r"^\W*", "").replace(r"\W*$", ""),
    }
    return said[type(scorer).__name__]()
