"""A constraint limits its own answer only, and ends it."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from fungible.engine.generation import GenerationRequest, Output
from fungible.engine.sampler import SamplingParams
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import EngineError
from support.engine_setup import SCRIPT_START, byte_tokens, running, script


class Only:
    """A constraint that one row of tokens meets."""

    def __init__(self, tokens: list[int], *, fails_at: int | None = None) -> None:
        self.tokens = tokens
        self.fails_at = fails_at

    def start(self) -> "Place":
        return Place(self)


class Place:
    def __init__(self, only: Only) -> None:
        self._only = only
        self._at = 0

    def mask(self, logits: NDArray[np.float32]) -> None:
        kept = logits[self._only.tokens[self._at]]
        logits[:] = -np.inf
        logits[self._only.tokens[self._at]] = kept

    def accept(self, token: int) -> None:
        if self._at == self._only.fails_at:
            raise EngineError("the answer left its grammar")
        assert token == self._only.tokens[self._at]
        self._at += 1

    @property
    def finished(self) -> bool:
        return self._at == len(self._only.tokens)


async def answer(scheduler: Scheduler, constraint: Only | None) -> Output:
    request = GenerationRequest(
        prompt=(SCRIPT_START,),
        sampling=SamplingParams(temperature=0.0, top_logprobs=0),
        constraint=constraint,
    )
    (output,) = await asyncio.wait_for(scheduler.submit(request).outputs(), 20)
    return output


async def test_a_constraint_decides_and_ends_the_answer(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, next_token=script("abc")) as engine:
        only = Only(byte_tokens("xyz"))
        bound, again, free = await asyncio.gather(
            *[answer(engine.scheduler, one) for one in (only, only, None)]
        )
    assert (bound.text, bound.finish_reason, bound.completion_tokens) == ("xyz", "stop", 3)
    assert again.text == "xyz", "each answer has a place of its own"
    assert free.text == "abc"
    assert bound.tokens[0].logprob < -10, "log-probabilities are the model's, not the mask's"


async def test_a_matcher_that_fails_ends_its_own_answer(tokenizer: ChatTokenizer) -> None:
    async with running(tokenizer, next_token=script("abc")) as engine:
        broken = asyncio.ensure_future(
            answer(engine.scheduler, Only(byte_tokens("xyz"), fails_at=1))
        )
        assert (await answer(engine.scheduler, None)).text == "abc"
        with pytest.raises(EngineError, match="left its grammar"):
            await broken
        assert engine.scheduler.problem() == ""
