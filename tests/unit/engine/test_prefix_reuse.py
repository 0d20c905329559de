"""Prompts start from what slots hold already, and answers are the same as without."""

import asyncio
import threading
from pathlib import Path

import pytest

from fungible.contract.target import parse_target
from fungible.engine.generation import GenerationRequest, Output
from fungible.engine.runtimes.registry import open_runtime
from fungible.engine.sampler import SamplingParams
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenizer import ChatTokenizer
from support.engine_setup import SCRIPT_START, running, script
from support.tiny_model import build_tiny_artifact

GREEDY = SamplingParams(temperature=0.0, top_logprobs=0)
START = tuple(range(20, 60))


def ask(*prompt: int, **fields: object) -> GenerationRequest:
    fields = {"sampling": GREEDY, "max_tokens": 4, "ignore_eos": True} | fields
    return GenerationRequest(prompt=prompt, **fields)


async def answer(scheduler: Scheduler, request: GenerationRequest) -> Output:
    (output,) = await asyncio.wait_for(scheduler.submit(request).outputs(), 20)
    return output


def tokens(output: Output) -> list[int]:
    return [one.token for one in output.tokens]


async def test_a_conversation_goes_on_where_its_slot_ended(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, context=128, prefill_chunk=16) as engine:
        first = await answer(engine.scheduler, ask(*START))
        more = (*START, *tokens(first), 7, 8)
        second = await answer(engine.scheduler, ask(*more))
        # Whole pieces only, and nothing of the answer: it was not run as a prompt is.
        assert (first.cached_tokens, second.cached_tokens) == (0, 32)
        prefills = [what for name, what in engine.runtime.calls if name == "prefill"]
        assert prefills == [(0, 16), (0, 16), (0, 8), (0, 14)]
        metrics = engine.scheduler.metrics
        assert metrics.prefix_hits.value == 32
        assert metrics.prefix_queries.value == len(START) + len(more)
    async with running(tokenizer, context=128, prefix_cache=False) as engine:
        apart = await answer(engine.scheduler, ask(*more))
    assert tokens(apart) == tokens(second)
    assert apart.cached_tokens == 0


async def test_several_answers_cost_one_prefill(tokenizer: ChatTokenizer) -> None:
    wanted = [ask(*START, sampling=SamplingParams(seed=at, top_logprobs=0)) for at in range(4)]
    gate = threading.Semaphore(0)
    async with running(tokenizer, gate=gate, prefill_chunk=16) as engine:
        waiting = [engine.scheduler.submit(one) for one in wanted]
        gate.release(1000)
        outputs = [(await one.outputs())[0] for one in waiting]
        ran = sum(what[1] for name, what in engine.runtime.calls if name == "prefill")
        assert ran == len(START) + 3 * 8, "the others only run the last, broken piece"
    assert [one.cached_tokens for one in outputs] == [0, 32, 32, 32]
    async with running(tokenizer, prefix_cache=False) as engine:
        apart = [await answer(engine.scheduler, one) for one in wanted]
    assert [tokens(one) for one in outputs] == [tokens(one) for one in apart]


async def test_less_than_a_piece_is_not_shared(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, prefill_chunk=16) as engine:
        for end in (1, 2):
            output = await answer(engine.scheduler, ask(*START[:15], end, 9))
            assert output.cached_tokens == 0


async def test_a_long_slot_is_copied_rather_than_cut(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, slots=2, context=128, prefill_chunk=20) as engine:
        long = (*START, *range(100, 160))
        await answer(engine.scheduler, ask(*long))
        other = await answer(engine.scheduler, ask(*START, 5, 6))
        again = await answer(engine.scheduler, ask(*long, 4))
        assert other.cached_tokens == len(START)
        assert again.cached_tokens == len(long)
        assert ("fork", (0, 1, len(START))) in engine.runtime.calls


async def test_cancelling_during_a_shared_prefill_lets_the_others_go_on(
    tokenizer: ChatTokenizer,
) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, gate=gate, prefill_chunk=4) as engine:
        first = engine.scheduler.submit(ask(*START))
        second = engine.scheduler.submit(ask(*START))
        gate.release(2)
        while len(engine.runtime.calls) < 2:  # noqa: ASYNC110  # another thread's doing
            await asyncio.sleep(0.002)
        first.cancel()
        gate.release(1000)
        assert (await first.outputs())[0].finish_reason == "cancelled"
        (output,) = await asyncio.wait_for(second.outputs(), 20)
        assert output.finish_reason == "length"
        assert not engine.scheduler._active


async def test_nothing_is_reused_after_a_failed_step(tokenizer: ChatTokenizer) -> None:
    broken = threading.Event()

    def fault(name: str, _: int) -> None:
        if name == "decode" and broken.is_set():
            broken.clear()
            raise MemoryError

    async with running(tokenizer, fault=fault, prefill_chunk=16) as engine:
        await answer(engine.scheduler, ask(*START))
        assert (await answer(engine.scheduler, ask(*START, 3))).cached_tokens == 32
        broken.set()
        with pytest.raises(Exception, match="the runtime failed"):
            await answer(engine.scheduler, ask(*START, 1))
        assert (await answer(engine.scheduler, ask(*START, 2))).cached_tokens == 0


async def test_scores_of_a_prompt_are_the_same_in_pieces(tokenizer: ChatTokenizer) -> None:
    scored = ask(*START, prompt_logprobs=2)
    outputs = []
    for chunk in (7, 128):
        async with running(tokenizer, prefill_chunk=chunk) as engine:
            await answer(engine.scheduler, ask(*START))
            outputs.append(await answer(engine.scheduler, scored))
    one, other = outputs
    assert one.prompt == other.prompt
    assert [score.token for score in one.prompt] == list(START[1:])
    assert all(len(score.top) == 2 for score in one.prompt)
    assert one.cached_tokens == 0, "scores need every token's logits"


async def test_end_tokens_and_stop_strings_wait_for_min_tokens(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, next_token=script("abXcdX")) as engine:

        async def said(**fields: object) -> tuple[str, int]:
            fields = {"ignore_eos": False, "max_tokens": 20} | fields
            output = await answer(engine.scheduler, ask(SCRIPT_START, **fields))
            return output.text, output.completion_tokens

        assert await said(stops=("X",)) == ("ab", 3)
        assert await said(stops=("X",), min_tokens=4) == ("abXcd", 6)
        letter = tokenizer.encode("c")[0]
        assert (await said(stop_token_ids=frozenset([letter])))[0] == "abX"
        _, produced = await said(min_tokens=12)
        assert produced >= 12


@pytest.mark.parametrize("variant", ["f32", "int8"])
async def test_answers_of_a_model_do_not_depend_on_reuse(
    tokenizer: ChatTokenizer, tmp_path: Path, variant: str
) -> None:
    artifact = build_tiny_artifact(tmp_path, variants=["f32", "int8"])
    prompts = [(*START, end) for end in (1, 2, 3)] + [(*START, *range(70, 90))]

    async def answers(*, reuse: bool) -> list[Output]:
        where = parse_target("onnxruntime:cpu")
        runtime = open_runtime(artifact, variant, where, slots=2, context=128, threads=1)
        scheduler = Scheduler(
            runtime, tokenizer, eos_ids=frozenset(), prefix_cache=reuse, prefill_chunk=16
        )
        scheduler.start()
        try:
            waiting = [scheduler.submit(ask(*one, max_tokens=12)) for one in prompts]
            return [(await one.outputs())[0] for one in waiting]
        finally:
            await scheduler.close()

    shared, apart = await answers(reuse=True), await answers(reuse=False)
    assert [one.tokens for one in shared] == [one.tokens for one in apart], "to the last digit"
    assert [one.cached_tokens for one in shared] == [0, 32, 32, 32]
