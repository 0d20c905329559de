"""A step log is read whole, in pieces, across rotation and after a crash, to the same steps."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.contract.steps import StepsEvent
from fungible.engine.step_log import RequestShare, StepLog, StepRecord
from fungible.errors import DiskError, InputError
from fungible.ingest.step_log import StepReader, StepTail, read_step_log
from fungible.ledger.store import step_rows

S = 1_000_000_000
CLOCKS = {"run": "run_1", "monotonic": 100.5, "unix": 1_800_000_000.25}


def line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


def step(number: int, **changes: Any) -> str:
    fields = {
        "step": number,
        "start": 101.0 + number,
        "seconds": 0.5,
        "prefill_tokens": 3,
        "decode_tokens": 1,
        "requests": [
            {"id": f"a{number}", "prefill": 3, "kv": 3},
            {"id": "b", "decode": 1, "kv": 9},
        ],
    }
    return line(**(fields | changes))


def rows_of(batches: list[StepsEvent]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in step_rows(batch)]


def test_clocks_and_shares_are_exact() -> None:
    batches: list[StepsEvent] = []
    reader = StepReader("own", batches.append)
    reader.feed((line(**CLOCKS) + step(1)).encode())
    reader.flush()
    (row,) = rows_of(batches)
    assert row == {
        "backend": "own",
        "run": "run_1",
        "step": 1,
        "start_ns": 1_800_000_000_250_000_000 + int(Decimal("1.5") * S),
        "duration_ns": S // 2,
        "prefill_tokens": 3,
        "decode_tokens": 1,
        "requests": ["a1", "b"],
        "prefill": [3, 0],
        "decode": [0, 1],
        "kv": [3, 9],
    }


def test_what_is_no_step_is_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    odd = [
        step(1),  # before any clock
        line(**CLOCKS),
        "not JSON\n",
        step(2, seconds=-1),
        step(3, requests=[{"id": "a", "prefill": -3}]),
        step(3, seconds=3601),
        step(4, requests=[]),
        step(5),
        step(6)[:-9],  # torn
    ]
    path.write_text("".join(odd))
    batches: list[StepsEvent] = []
    reader = read_step_log(path, "own", batches.append)
    assert [row["step"] for row in rows_of(batches)] == [4, 5]
    assert (reader.steps, reader.rejected) == (2, 5)


@pytest.mark.parametrize("text", ["", line(**CLOCKS), '{"a": 1}\n'])
def test_a_file_without_steps_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="no step in it"):
        read_step_log(path, "own", print)
    with pytest.raises(InputError, match="cannot be read"):
        read_step_log(tmp_path / "missing", "own", print)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=12), st.data())
def test_a_tail_sees_each_step_once_wherever_the_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("tail") / "own.jsonl"
    text = line(**CLOCKS) + "".join(step(at) for at in range(1, 8))
    text += line(**CLOCKS | {"run": "run_2"}) + "".join(step(at) for at in range(1, 4))
    batches: list[StepsEvent] = []
    tail = StepTail(path, "own", batches.append)
    assert tail.read() == 0
    at = 0
    for cut in [*cuts, len(text)]:
        with path.open("a") as file:
            file.write(text[at : at + cut])
        at += cut
        tail.read()
        if data.draw(st.booleans()):  # control starts again
            tail = StepTail(path, "own", batches.append)
    found = [(batch.run, one.step) for batch in batches for one in batch.steps]
    assert found == [("run_1", at) for at in range(1, 8)] + [("run_2", at) for at in range(1, 4)]


def test_the_engines_own_log_is_followed_across_rotation(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    batches: list[StepsEvent] = []
    tail = StepTail(path, "own", batches.append)
    log = StepLog(path, most_bytes=2000)
    for number in range(1, 101):
        share = RequestShare(id=f"r{number}", decode=1, kv=9)
        log.add(
            StepRecord(
                step=number,
                start=1.0,
                seconds=0.5,
                prefill_tokens=0,
                decode_tokens=1,
                requests=[share],
            )
        )
        if number % 7 == 0:
            while log._queue.qsize():
                pass
            tail.read()
    log.close()
    tail.read()
    assert (tmp_path / "own.jsonl.1").exists()
    rows = rows_of(batches)
    assert sorted(row["step"] for row in rows) == list(range(1, 101))
    assert len({row["run"] for row in rows}) == 1
    assert tail.read() == 0


def test_records_that_the_spool_refused_come_again(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(line(**CLOCKS) + step(1))
    batches: list[StepsEvent] = []
    full = True

    def sink(batch: StepsEvent) -> None:
        if full:
            raise DiskError("full")
        batches.append(batch)

    tail = StepTail(path, "own", sink)
    with pytest.raises(DiskError):
        tail.read()
    full = False
    assert tail.read() == 1
    assert [row["step"] for row in rows_of(batches)] == [1]
