import asyncio
import threading
import time

import pytest

from fungible.engine.generation import Generation, GenerationRequest, Output
from fungible.engine.sampler import SamplingParams
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import (
    ContextLengthError,
    EngineError,
    FungibleError,
    UnavailableError,
    UpstreamBusyError,
)
from support.engine_setup import EOS, SCRIPT_START, byte_tokens, running, script

GREEDY = SamplingParams(temperature=0.0)


def ask(*prompt: int, **fields: object) -> GenerationRequest:
    fields.setdefault("sampling", GREEDY)
    return GenerationRequest(prompt=prompt or (SCRIPT_START,), **fields)


async def whole(generation: Generation) -> Output:
    """Everything in one output."""
    answer = Output(text="")
    while answer.finish_reason is None:
        for output in await asyncio.wait_for(generation.outputs(), 20):
            assert answer.finish_reason is None, "an output after the last one"
            answer.text += output.text
            answer.tokens += output.tokens
            answer.completion_tokens = output.completion_tokens
            answer.finish_reason = output.finish_reason
    return answer


async def until(condition: object) -> None:
    """Wait for something another thread does."""
    assert callable(condition)
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_ends_at_the_end_token(tokenizer: ChatTokenizer, stream: bool) -> None:
    async with running(tokenizer, next_token=script("naïve 😀")) as engine:
        answer = await whole(engine.scheduler.submit(ask(stream=stream)))
    assert answer.text == "naïve 😀"
    assert answer.finish_reason == "stop"
    assert answer.completion_tokens == len(byte_tokens("naïve 😀")) + 1


async def test_a_streamed_answer_comes_piece_by_piece(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, next_token=script("é!"), gate=gate) as engine:
        generation = engine.scheduler.submit(ask(stream=True))
        gate.release(3)  # prefill and two decodes: both bytes of é, then !
        texts: list[str] = []
        while len(texts) < 2:
            texts += [output.text for output in await generation.outputs()]
        assert texts == ["é", "!"]


async def test_ignore_eos_goes_on(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, next_token=script("ab")) as engine:
        answer = await whole(engine.scheduler.submit(ask(ignore_eos=True, max_tokens=6)))
    assert (answer.text, answer.finish_reason) == ("ab", "length")
    assert answer.completion_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_over_several_tokens_never_shows(
    tokenizer: ChatTokenizer, stream: bool
) -> None:
    async with running(tokenizer, next_token=script("one, two. three")) as engine:
        request = ask(stops=("two.", "zzz"), stream=stream)
        generation = engine.scheduler.submit(request)
        answer = await whole(generation)
        assert (answer.text, answer.finish_reason) == ("one, ", "stop")
        assert answer.completion_tokens == len("one, two.")
        held = await whole(engine.scheduler.submit(ask(stops=("three!",), stream=stream)))
        assert held.text == "one, two. three", "what was held back comes at the end"


async def test_max_tokens_ends_with_length(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, next_token=script("abcdef")) as engine:
        answer = await whole(engine.scheduler.submit(ask(max_tokens=3)))
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("abc", "length", 3)


async def test_prompt_and_answer_share_the_context(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, context=10, next_token=script("x" * 99)) as engine:
        answer = await whole(engine.scheduler.submit(ask(*[SCRIPT_START] * 4, max_tokens=50)))
        assert (answer.completion_tokens, answer.finish_reason) == (6, "length")
        last = await whole(engine.scheduler.submit(ask(*[SCRIPT_START] * 9)))
        assert (last.completion_tokens, last.finish_reason) == (1, "length")
        with pytest.raises(ContextLengthError, match="10 tokens long; the context holds 10"):
            engine.scheduler.submit(ask(*[SCRIPT_START] * 10))


async def test_answers_do_not_depend_on_their_neighbours(tokenizer: ChatTokenizer) -> None:
    requests = [
        ask(
            *range(5, 8 + 3 * number),
            sampling=SamplingParams(seed=number, top_p=0.9, top_logprobs=2),
            max_tokens=20 + number,
            stream=number % 2 == 0,
        )
        for number in range(7)
    ]
    async with running(tokenizer, slots=1, prefill_chunk=4, eos_ids=()) as engine:
        alone = [await whole(engine.scheduler.submit(request)) for request in requests]
    async with running(tokenizer, slots=3, prefill_chunk=4, eos_ids=()) as engine:
        together = [engine.scheduler.submit(request) for request in requests]
        assert await asyncio.gather(*map(whole, together)) == alone
        widths = {len(what) for name, what in engine.runtime.calls if name == "decode"}
    assert max(widths) == 3, "requests really shared steps"


async def test_a_long_prompt_does_not_starve_the_others(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(
        tokenizer, next_token=script("x" * 99), gate=gate, prefill_chunk=4
    ) as engine:
        short = engine.scheduler.submit(ask(max_tokens=20))
        gate.release(2)
        await until(lambda: engine.runtime.names() == ["prefill", "decode"])
        long = engine.scheduler.submit(ask(*[SCRIPT_START] * 38, max_tokens=2))
        gate.release(1000)
        await asyncio.gather(whole(short), whole(long))
        pieces = [what for name, what in engine.runtime.calls if name == "prefill"]
        assert pieces == [(0, 1), *[(1, 4)] * 9, (1, 2)]
        names = engine.runtime.names()
    first = names.index("prefill", 2)
    assert names[first : first + 10] == ["prefill"] * 8 + ["decode", "prefill"], "8 pieces a step"


async def test_short_prompts_share_a_step(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(
        tokenizer, next_token=script("ab"), gate=gate, prefill_chunk=4, prefix_cache=False
    ) as engine:
        blocker = engine.scheduler.submit(ask(max_tokens=1))
        await until(lambda: not engine.scheduler._waiting)
        others = [engine.scheduler.submit(ask(SCRIPT_START, 9)) for _ in range(3)]
        gate.release(1000)
        await asyncio.gather(*map(whole, [blocker, *others]))
        assert engine.runtime.names()[:6] == ["prefill", "release", *["prefill"] * 3, "decode"]


async def test_cancelling_frees_the_slot(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, slots=1, next_token=script("x" * 60), gate=gate) as engine:
        first = engine.scheduler.submit(ask(stream=True))
        second = engine.scheduler.submit(ask(max_tokens=1))
        third = engine.scheduler.submit(ask(max_tokens=1))
        gate.release(2)
        await until(lambda: len(engine.runtime.calls) == 2)
        first.cancel()
        second.cancel()
        gate.release(100)
        assert (await whole(first)).finish_reason == "cancelled"
        assert (await whole(second)).finish_reason == "cancelled"
        assert (await whole(third)).text == "x"
        assert ("release", 0) in engine.runtime.calls
        assert engine.runtime.names().count("prefill") == 2, "the second never ran"
        assert engine.scheduler.metrics.finished["abort"].value == 2


async def test_a_full_queue_refuses(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, slots=1, next_token=script("a"), gate=gate, max_waiting=2) as e:
        e.scheduler.submit(ask())
        await until(lambda: not e.scheduler._waiting)
        waiting = [e.scheduler.submit(ask()) for _ in range(2)]
        with pytest.raises(UpstreamBusyError, match="2 requests wait already"):
            e.scheduler.submit(ask())
        gate.release(100)
        assert [one.text for one in await asyncio.gather(*map(whole, waiting))] == ["a", "a"]


async def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(
    tokenizer: ChatTokenizer,
) -> None:
    broken = threading.Event()

    def fault(name: str, _: int) -> None:
        if name == "decode" and broken.is_set():
            raise MemoryError("out of memory")

    async with running(tokenizer, next_token=script("abc"), fault=fault) as engine:
        for failures in range(1, 4):
            broken.set()
            both = [engine.scheduler.submit(ask()) for _ in range(2)]
            for generation in both:
                with pytest.raises(EngineError, match="runtime failed: MemoryError"):
                    await whole(generation)
            if failures == 1:
                assert engine.scheduler.problem() == ""
        assert "steps failed" in engine.scheduler.problem()
        broken.clear()
        assert (await whole(engine.scheduler.submit(ask()))).text == "abc"
        assert engine.scheduler.problem() == ""
        assert engine.scheduler.metrics.finished["error"].value == 6


async def test_text_before_a_failure_is_still_delivered(tokenizer: ChatTokenizer) -> None:
    def fault(_: str, number: int) -> None:
        if number == 3:
            raise RuntimeError("device lost")

    async with running(tokenizer, next_token=script("abcdef"), fault=fault) as engine:
        generation = engine.scheduler.submit(ask(stream=True))
        text = ""
        while len(text) < 3:
            text += "".join(output.text for output in await generation.outputs())
        assert text == "abc"
        with pytest.raises(EngineError, match="device lost"):
            await generation.outputs()


async def test_bad_logits_fail_only_their_own_request(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, next_token=script("abc")) as engine:
        engine.runtime.poison = {7}
        bad = engine.scheduler.submit(ask(7))
        good = engine.scheduler.submit(ask())
        assert (await whole(good)).text == "abc"
        with pytest.raises(EngineError, match="not finite"):
            await whole(bad)
        assert engine.scheduler.problem() == ""


async def test_a_worker_that_ends_says_so(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)

    def fault(name: str, _: int) -> None:
        if name == "release":
            raise RuntimeError("slot table corrupt")

    async with running(
        tokenizer, slots=1, next_token=script("a"), fault=fault, gate=gate, prefix_cache=False
    ) as engine:
        running_one = engine.scheduler.submit(ask(ignore_eos=True, max_tokens=9))
        waiting = engine.scheduler.submit(ask())
        gate.release(100)
        with pytest.raises(EngineError, match="slot table corrupt"):
            await whole(waiting)
        assert (await whole(running_one)).finish_reason == "length"
        assert "slot table corrupt" in engine.scheduler.problem()
        with pytest.raises(UnavailableError, match="slot table corrupt"):
            engine.scheduler.submit(ask())
        await until(lambda: engine.runtime.closed)


async def test_closing_fails_what_is_unfinished(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with running(tokenizer, slots=1, next_token=script("x" * 60), gate=gate) as engine:
        unfinished = [engine.scheduler.submit(ask()) for _ in range(2)]
        gate.release(1)
        closing = asyncio.create_task(engine.scheduler.close())
        await asyncio.sleep(0)
        gate.release(100)
        for generation in unfinished:
            with pytest.raises(FungibleError, match="shutting down"):
                await whole(generation)
        await closing
        assert engine.runtime.closed
        with pytest.raises(UnavailableError, match="shutting down"):
            engine.scheduler.submit(ask())


async def test_log_probabilities_belong_to_the_text_that_is_shown(
    tokenizer: ChatTokenizer,
) -> None:
    wanted = SamplingParams(temperature=0.0, top_logprobs=1)
    async with running(tokenizer, next_token=script("aé, stop")) as engine:
        for stream in (False, True):
            answer = await whole(
                engine.scheduler.submit(ask(sampling=wanted, stops=("stop",), stream=stream))
            )
            assert answer.text == "aé, "
            assert [one.token for one in answer.tokens] == byte_tokens("aé, ")
        whole_text = await whole(engine.scheduler.submit(ask(sampling=wanted, stream=True)))
        assert [one.token for one in whole_text.tokens] == byte_tokens("aé, stop")
    assert all(one.top[0][0] == one.token for one in whole_text.tokens)


async def test_counters_add_up(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, next_token=script("abc")) as engine:
        await asyncio.gather(*[whole(engine.scheduler.submit(ask(5, SCRIPT_START))) for _ in "12"])
        metrics = engine.scheduler.metrics
        await until(lambda: metrics.running.value == 0)
    assert metrics.prompt_tokens.value == 4
    assert metrics.generation_tokens.value == 8
    assert metrics.finished["stop"].value == 2
    page = metrics.render('a"b').decode()
    assert 'vllm:generation_tokens_total{model_name="a\\"b"} 8' in page
    assert 'vllm:time_to_first_token_seconds_count{model_name="a\\"b"} 2' in page
    assert page.count("# TYPE vllm:request_success_total counter") == 1
    assert EOS in engine.scheduler._eos_ids
