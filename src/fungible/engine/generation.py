"""One answer from outside: what was asked, and what the client's side reads."""

import asyncio
import time

import msgspec

from fungible.engine.constraint import Constraint
from fungible.engine.sampler import Sampled, SamplingParams
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
        continues: The answer goes on in the prompt's text, so a space that it starts with stays;
            else it is a text of its own.
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
    continues: bool = False
    request_id: str = ""


class Output(msgspec.Struct, kw_only=True):
    """What one or more steps added to an answer.

    Attributes:
        text: May be empty, while a character or a possible stop string is incomplete.
        tokens: Tokens behind `text` with log-probabilities, when asked for.
        finish_reason: `stop`, `length` or `cancelled` on the last output, else `None`.
        completion_tokens: Sampled so far; an end token counts, it took a step like any other.
        end: The token that ended the answer, with log-probabilities when asked for; not part of
            `text` nor of `tokens`. `None` when none did.
        prompt: The prompt's tokens from the second on, scored, once, when asked for.
        cached_tokens: Prompt tokens whose keys and values were already there.
    """

    text: str
    tokens: list[Sampled] = []
    finish_reason: str | None = None
    completion_tokens: int = 0
    end: Sampled | None = None
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


class Mailbox:
    """Carries what the worker made to the event loop, in one go for each step."""

    def __init__(self) -> None:
        self._due: list[tuple[Generation, Output | FungibleError]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Deliver to the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def put(self, generation: Generation, item: Output | FungibleError) -> None:
        """Keep an output or a final error until the next `post`."""
        self._due.append((generation, item))

    def post(self) -> None:
        """Hand over what is due."""
        due, self._due = self._due, []
        if due and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, due)


def _deliver(due: list[tuple[Generation, Output | FungibleError]]) -> None:
    for generation, item in due:
        generation.deliver(item)
