import asyncio
import threading

import pytest

from fungible.engine.answers import AnswerGroup, repeated
from fungible.engine.generation import GenerationRequest
from fungible.engine.sampler import SamplingParams
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import EngineError, UnavailableError, UpstreamBusyError
from support.engine_setup import SCRIPT_START, byte_tokens, running, script

PROMPT = (*byte_tokens("hi "), SCRIPT_START)


def request(*, stream: bool = True, seed: int | None = None) -> GenerationRequest:
    return GenerationRequest(prompt=PROMPT, stream=stream, sampling=SamplingParams(seed=seed))


def test_a_seed_grows_by_one_from_answer_to_answer() -> None:
    assert [one.sampling.seed for one in repeated(request(seed=7), 3)] == [7, 8, 9]
    assert [one.sampling.seed for one in repeated(request(), 2)] == [None, None]


async def test_answers_are_told_apart_by_name(tokenizer: ChatTokenizer) -> None:
    named = GenerationRequest(prompt=PROMPT, request_id="req_1")
    gate = threading.Semaphore(0)
    async with running(tokenizer, gate=gate) as engine:
        alone = AnswerGroup(engine.scheduler, [named], per_prompt=1)
        both = AnswerGroup(engine.scheduler, [named, named], per_prompt=2)
        names = [[one.request.request_id for one in group._generations] for group in (alone, both)]
        alone.close()
        both.close()
    assert names == [["req_1"], ["req_1-0", "req_1-1"]]


async def test_outputs_come_from_every_answer(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, slots=2, next_token=script("abc")) as engine:
        group = AnswerGroup(engine.scheduler, [request()] * 3, per_prompt=3)
        texts = ["", "", ""]
        while not group.finished:
            for index, output in await group.outputs():
                texts[index] += output.text
    usage = group.usage()
    assert texts == ["abc"] * 3
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 12, 16)
    assert not group.cancelled


async def test_whole_answers_are_in_order(tokenizer: ChatTokenizer) -> None:
    requests = [
        GenerationRequest(prompt=PROMPT, max_tokens=size, sampling=SamplingParams(temperature=0))
        for size in (3, 1, 2)
    ]
    async with running(tokenizer, next_token=script("abc")) as engine:
        group = AnswerGroup(engine.scheduler, requests, per_prompt=1)
        assert [output.text for output in await group.whole()] == ["abc", "a", "ab"]
        assert group.usage().prompt_tokens == 12


@pytest.mark.parametrize("count", [1, 3])
async def test_a_cancelled_group_has_no_whole_answers(tokenizer: ChatTokenizer, count: int) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, next_token=script("a" * 50), gate=gate) as engine:
        group = AnswerGroup(engine.scheduler, [request(stream=False)] * count, per_prompt=count)
        reader = asyncio.create_task(group.whole())
        gate.release(2)
        await asyncio.sleep(0.01)
        group.cancel()
        gate.release(1000)
        assert await asyncio.wait_for(reader, 10) == []
        assert group.cancelled


@pytest.mark.parametrize("count", [1, 3])
async def test_one_failure_fails_the_group(tokenizer: ChatTokenizer, count: int) -> None:
    def fault(name: str, number: int) -> None:
        if name == "decode":
            raise RuntimeError("device lost")

    async with running(tokenizer, next_token=script("abc"), fault=fault) as engine:
        group = AnswerGroup(engine.scheduler, [request(stream=False)] * count, per_prompt=count)
        with pytest.raises(EngineError, match="device lost"):
            await group.whole()


async def test_a_reader_that_is_cancelled_leaves_no_reads_behind(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, next_token=script("abc"), gate=gate) as engine:
        group = AnswerGroup(engine.scheduler, [request()] * 3, per_prompt=3)
        reader = asyncio.create_task(group.outputs())
        await asyncio.sleep(0.01)
        before = len(asyncio.all_tasks())
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        group.close()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before - 4, "the reader and its three reads"


async def test_a_refusal_gives_the_group_up(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, slots=1, max_waiting=2, gate=gate) as engine:
        with pytest.raises(UpstreamBusyError):
            AnswerGroup(engine.scheduler, [request()] * 4, per_prompt=4)
        assert all(one.cancelled for one in engine.scheduler._waiting)
    with pytest.raises(UnavailableError):
        AnswerGroup(engine.scheduler, [request()], per_prompt=1)
