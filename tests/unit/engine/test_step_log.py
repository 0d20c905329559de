"""The step log says which requests a step served, and never holds a step up."""

import asyncio
import json
from pathlib import Path

import pytest

from fungible.engine.generation import GenerationRequest
from fungible.engine.sampler import SamplingParams
from fungible.engine.step_log import RequestShare, StepLog, StepRecord
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import DiskError
from support.engine_setup import running

GREEDY = SamplingParams(temperature=0.0)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_every_token_is_in_one_record(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog(path)
    async with running(tokenizer, prefill_chunk=8, eos_ids=(), step_log=log) as engine:
        waiting = [
            engine.scheduler.submit(
                GenerationRequest(
                    prompt=tuple(range(5 + at, 25)),
                    max_tokens=4,
                    sampling=GREEDY,
                    request_id=f"r{at}",
                )
            )
            for at in range(3)
        ]
        await asyncio.gather(*[one.outputs() for one in waiting])
    clocks, *steps = lines(path)
    assert set(clocks) == {"run", "monotonic", "unix"}
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    shares = [share for step in steps for share in step["requests"]]
    for at in range(3):
        own = [share for share in shares if share["id"] == f"r{at}"]
        assert sum(share.get("prefill", 0) for share in own) == 20 - at
        assert sum(share.get("decode", 0) for share in own) == 3, "the prefill gives the first"
        assert own[-1]["kv"] == 20 - at + 3
    assert sum(step["prefill_tokens"] for step in steps) == 57
    assert all(step["seconds"] > 0 for step in steps)


def record(step: int) -> StepRecord:
    share = RequestShare(id="r", decode=1, kv=9)
    return StepRecord(
        step=step, start=1.0, seconds=0.5, prefill_tokens=0, decode_tokens=1, requests=[share]
    )


def test_a_full_file_makes_room_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog(path, most_bytes=400)
    for step in range(1, 6):
        log.add(record(step))
    log.close()
    held = lines(tmp_path / "steps.jsonl.1") + lines(path)
    assert [one["step"] for one in held if "step" in one] == [1, 2, 3, 4, 5]
    assert sum("unix" in one for one in held) == 2


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot write the step log"):
        StepLog(tmp_path / "none" / "steps.jsonl")
