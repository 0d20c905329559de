"""One answer being made: what was asked, what the worker keeps, what the client's side reads."""

import asyncio
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.engine.constraint import Constraint
from fungible.engine.detokenizer import Detokenizer
from fungible.engine.sampler import Sampled, Sampler, SamplingParams
from fungible.engine.stopping import StopMatcher
from fungible.errors import FungibleError

CANCELLED = "cancelled"


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to generate.

    Attributes:
        prompt: Token ids.
        max_tokens: Most tokens of the answer; `None` means until the context is full.
        stops: Strings that end the answer and are not part of it.
        ignore_eos: Go on after the model's end token, for measurements of a fixed length.
        stream: Deliver each token when it is there, rather than the whole answer at its end.
        stop_token_ids: Tokens that end the answer beside the model's own; not part of its text.
        min_tokens: No end token and no stop string ends the answer before this many tokens.
        constraint: What the answer's tokens must form, such as a JSON schema.
        prompt_logprobs: Alternatives to report for each prompt token; `None` reports none.
        request_id: Names the answer in logs; the HTTP request's, with the answer's index after
            it where there are several.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    stream: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    constraint: Constraint | None = None
    prompt_logprobs: int | None = None
    request_id: str = ""


class Output(msgspec.Struct, kw_only=True):
    """What one or more steps added to an answer.

    Attributes:
        text: May be empty, while a character or a possible stop string is incomplete.
        tokens: Tokens behind `text` with log-probabilities, when asked for.
        finish_reason: `stop`, `length` or `cancelled` on the last output, else `None`.
        completion_tokens: Sampled so far; an end token counts, it took a step like any other.
        prompt: The prompt's tokens from the second on, scored, once, when asked for.
        cached_tokens: Prompt tokens whose keys and values were already there.
    """

    text: str
    tokens: list[Sampled] = []
    finish_reason: str | None = None
    completion_tokens: int = 0
    prompt: list[Sampled] = []
    cached_tokens: int = 0


class Generation:
    """The reading side of one answer, on the event loop that submitted it."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.submitted = time.monotonic()
        self.cancelled = False
        self._outputs: list[Output] = []
        self._error: FungibleError | None = None
        self._news = asyncio.Event()

    def cancel(self) -> None:
        """Give up: the worker frees the slot before its next step. Harmless when finished."""
        self.cancelled = True

    async def outputs(self) -> list[Output]:
        """What came since the last call, in order; waits until there is something.

        Raises:
            FungibleError: The answer cannot be finished.
        """
        await self._news.wait()
        self._news.clear()
        if self._error is not None and not self._outputs:
            self._news.set()
            raise self._error
        found, self._outputs = self._outputs, []
        if self._error is not None:
            self._news.set()
        return found

    def deliver(self, item: Output | FungibleError) -> None:
        """Take an output or the final error; called on the event loop by the scheduler."""
        if isinstance(item, Output):
            self._outputs.append(item)
        else:
            self._error = item
        self._news.set()


class Sequence:
    """A generation that holds a slot; only the worker touches it.

    Args:
        generation: Its reading side.
        slot: The runtime's slot.
        limit: Most tokens of the answer, the context taken into account.
        detokenizer: Turns this answer's tokens into text.
    """

    def __init__(
        self, generation: Generation, slot: int, limit: int, detokenizer: Detokenizer
    ) -> None:
        request = generation.request
        self.generation = generation
        self.slot = slot
        self.prompt: NDArray[np.int64] = np.array(request.prompt, dtype=np.int64)
        self.prefilled = 0
        self.sampler = Sampler(request.sampling, request.prompt)
        self.last_token = -1
        self.last_time = 0.0
        self.produced = 0
        self._limit = limit
        self._text = _AnswerText(detokenizer, request)
        self._output = Output(text="")

    @property
    def prefilling(self) -> bool:
        """Whether a part of the prompt has not been run yet."""
        return self.prefilled < len(self.prompt)

    def accept(self, sampled: Sampled, eos_ids: frozenset[int]) -> Output | None:
        """Take the next token; what to deliver now, or `None` when nothing is due."""
        self.produced += 1
        self.last_token = sampled.token
        output = self._output
        output.completion_tokens = self.produced
        request = self.generation.request
        if sampled.token in eos_ids and not request.ignore_eos:
            output.finish_reason = "stop"
            self._text.finish(output)
        elif self._text.push(sampled, output):
            output.finish_reason = "stop"
        elif self.produced >= self._limit:
            output.finish_reason = "length"
            self._text.finish(output)
        if output.finish_reason is None and not (request.stream and output.text):
            return None
        self._output = Output(text="")
        return output

    def cancelled(self) -> Output:
        """The last output of an answer that was given up."""
        return Output(text="", finish_reason=CANCELLED, completion_tokens=self.produced)


class _AnswerText:
    """Text of one answer, with each token's log-probabilities released beside its text.

    A token is released once the first character after its start is shown; tokens whose text
    fell to a stop string never are.
    """

    def __init__(self, detokenizer: Detokenizer, request: GenerationRequest) -> None:
        self._detokenizer = detokenizer
        self._stopper = StopMatcher(request.stops)
        self._wants_tokens = request.sampling.top_logprobs is not None
        self._pending: list[tuple[int, Sampled]] = []
        self._length = 0
        self._shown = 0

    def push(self, sampled: Sampled, output: Output) -> bool:
        """Add what the token completes to `output`; whether a stop string was found."""
        text = self._detokenizer.push(sampled.token)
        if self._wants_tokens:
            self._pending.append((self._length, sampled))
        self._length += len(text)
        shown, stopped = self._stopper.push(text)
        output.text += shown
        self._shown += len(shown)
        while self._pending and self._pending[0][0] < self._shown:
            output.tokens.append(self._pending.pop(0)[1])
        return stopped

    def finish(self, output: Output) -> None:
        """Add what was held back."""
        output.text += self._stopper.flush()
        output.tokens += [sampled for _, sampled in self._pending]
