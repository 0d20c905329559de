"""The answers of one HTTP request: `n` to each prompt, made together, read as they come."""

import asyncio
from collections.abc import Sequence

import msgspec

from fungible.contract.openai import PromptTokensDetails, UsageBody
from fungible.engine.generation import CANCELLED, Generation, GenerationRequest, Output
from fungible.engine.scheduler import Scheduler
from fungible.errors import FungibleError


def repeated(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """The same request `count` times; a seed grows by one from answer to answer."""
    seed = request.sampling.seed
    if seed is None or count == 1:
        return [request] * count
    return [
        msgspec.structs.replace(
            request, sampling=msgspec.structs.replace(request.sampling, seed=seed + at)
        )
        for at in range(count)
    ]


def _named(requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """The requests, told apart by name when there are several."""
    if len(requests) == 1:
        return list(requests)
    return [
        msgspec.structs.replace(request, request_id=f"{request.request_id}-{at}")
        for at, request in enumerate(requests)
    ]


class AnswerGroup:
    """Generations that stand and fall together.

    An answer's index is its place among the requests: OpenAI's `index` of a choice.

    Args:
        scheduler: Makes the answers.
        requests: One for each answer, the answers to one prompt side by side.
        per_prompt: Answers to each prompt (`n`).

    Attributes:
        cancelled: Whether it was given up before every answer was there.

    Raises:
        FungibleError: The scheduler refused one of them; none goes on.
    """

    def __init__(
        self, scheduler: Scheduler, requests: Sequence[GenerationRequest], *, per_prompt: int
    ) -> None:
        self.cancelled = False
        self._per_prompt = per_prompt
        self._produced = [0] * len(requests)
        self._cached: dict[int, int] = {}
        self._reads: dict[asyncio.Task[list[Output]], int] = {}
        self._open = set(range(len(requests)))
        self._generations: list[Generation] = []
        try:
            for request in _named(requests):
                self._generations.append(scheduler.submit(request))
        except FungibleError:
            self.cancel()
            raise

    @property
    def finished(self) -> bool:
        """Whether every answer's last output was read."""
        return not self._open

    def cancel(self) -> None:
        """Give up what is unfinished; its slots are free before the next step."""
        self.cancelled = self.cancelled or bool(self._open)
        for generation in self._generations:
            generation.cancel()

    def close(self) -> None:
        """Cancel, and read no more."""
        self.cancel()
        self._stop_reading()

    async def outputs(self) -> list[tuple[int, Output]]:
        """What came since the last call, as (index, output); waits until there is something.

        A cancelled answer has no output; empty when nothing else is left.

        Raises:
            FungibleError: One answer cannot be finished; the others are given up.
        """
        try:
            found = await self._next()
        except FungibleError:
            self.cancel()
            raise
        for index, output in found:
            self._produced[index] = output.completion_tokens
            self._cached.setdefault(index, output.cached_tokens)
            if output.finish_reason is not None:
                self._open.discard(index)
        return [one for one in found if one[1].finish_reason != CANCELLED]

    async def whole(self) -> list[Output]:
        """The one output of each answer, for requests that do not stream.

        Empty when the group was cancelled.

        Raises:
            FungibleError: One answer cannot be finished; the others are given up.
        """
        answers: dict[int, Output] = {}
        while not self.finished:
            answers.update(await self.outputs())
        if len(answers) < len(self._generations):
            return []
        return [answers[index] for index in range(len(answers))]

    def usage(self) -> UsageBody:
        """Tokens so far. Each prompt counts once, however many answers it has."""
        prompts = range(0, len(self._generations), self._per_prompt)
        prompt = sum(len(self._generations[at].request.prompt) for at in prompts)
        cached = sum(
            min(self._cached.get(one, 0) for one in range(at, at + self._per_prompt))
            for at in prompts
        )
        produced = sum(self._produced)
        return UsageBody(
            prompt_tokens=prompt,
            completion_tokens=produced,
            total_tokens=prompt + produced,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        )

    async def _next(self) -> list[tuple[int, Output]]:
        if len(self._generations) == 1:
            return [(0, output) for output in await self._generations[0].outputs()]
        waiting = set(self._reads.values())
        for index in self._open - waiting:
            self._reads[asyncio.ensure_future(self._generations[index].outputs())] = index
        try:
            done, _ = await asyncio.wait(self._reads, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._stop_reading()
            raise
        found: list[tuple[int, Output]] = []
        failures = [error for one in done if (error := one.exception()) is not None]
        if failures:
            self._stop_reading()
            raise failures[0]
        for task in sorted(done, key=lambda one: self._reads[one]):
            index = self._reads.pop(task)
            found += [(index, output) for output in task.result()]
        return found

    def _stop_reading(self) -> None:
        for task in self._reads:
            task.cancel()
        self._reads.clear()
