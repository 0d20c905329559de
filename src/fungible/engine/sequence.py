"""One answer from inside: what the worker keeps while it makes it."""

import numpy as np
from numpy.typing import NDArray

from fungible.engine.detokenizer import Detokenizer
from fungible.engine.generation import CANCELLED, Generation, GenerationRequest, Output
from fungible.engine.runtimes.base import Logits
from fungible.engine.sampler import Sampled, Sampler, log_probabilities
from fungible.engine.stopping import StopMatcher


class Sequence:
    """A generation that holds a slot; only the worker touches it.

    Args:
        generation: Its reading side.
        slot: The runtime's slot.
        limit: Most tokens of the answer, the context taken into account.
        detokenizer: Turns this answer's tokens into text.
        eos_ids: Tokens that end an answer.
        cached: Tokens of the prompt that the slot holds already.
    """

    def __init__(
        self,
        generation: Generation,
        slot: int,
        limit: int,
        detokenizer: Detokenizer,
        *,
        eos_ids: frozenset[int],
        cached: int = 0,
    ) -> None:
        request = generation.request
        self.generation = generation
        self.slot = slot
        self.prompt: NDArray[np.int64] = np.array(request.prompt, dtype=np.int64)
        self.prefilled = cached
        self.last_token = -1
        self.last_time = 0.0
        self.produced = 0
        self._sampler = Sampler(request.sampling, request.prompt)
        self._limit = limit
        self._text = _AnswerText(detokenizer, request)
        self._output = Output(text="", cached_tokens=cached)
        self._ends = request.stop_token_ids | (frozenset() if request.ignore_eos else eos_ids)
        self._matcher = None if request.constraint is None else request.constraint.start()

    @property
    def request_id(self) -> str:
        """Names the answer in logs."""
        return self.generation.request.request_id

    @property
    def prefilling(self) -> bool:
        """Whether a part of the prompt has not been run yet."""
        return self.prefilled < len(self.prompt)

    @property
    def scoring(self) -> bool:
        """Whether the logits after every prompt token are wanted, not only the last."""
        return self.generation.request.prompt_logprobs is not None

    def score(self, logits: Logits) -> None:
        """Take the logits `(S, vocab)` after the `S` prompt tokens that come next."""
        count = self.generation.request.prompt_logprobs
        assert count is not None  # noqa: S101  # asked for only while `scoring`
        following = self.prompt[self.prefilled + 1 : self.prefilled + 1 + len(logits)].tolist()
        for row, token in zip(logits, following, strict=False):  # the last row has no next token
            logprob, top = log_probabilities(row, token, count)
            self._output.prompt.append(Sampled(token, logprob, top))

    def choose(self, logits: Logits) -> Sampled:
        """The next token, from the model's logits `(vocab,)`, which stay as they are.

        Raises:
            EngineError: No token can be chosen.
        """
        allowed = self._allowed(logits)
        sampled = self._sampler.sample(allowed, None if allowed is logits else logits)
        if self._matcher is not None and sampled.token not in self._ends:
            self._matcher.accept(sampled.token)
        return sampled

    def accept(self, sampled: Sampled) -> Output | None:
        """Take the next token; what to deliver now, or `None` when nothing is due."""
        self.produced += 1
        self.last_token = sampled.token
        output = self._output
        output.completion_tokens = self.produced
        request = self.generation.request
        may_stop = self.produced >= request.min_tokens
        if sampled.token in self._ends:
            output.finish_reason, output.end = "stop", sampled
            self._text.finish(output)
        elif self._text.push(sampled, output, may_stop=may_stop):
            output.finish_reason = "stop"
        elif self._matcher is not None and self._matcher.finished:
            output.finish_reason = "stop"
            self._text.finish(output)
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

    def _allowed(self, logits: Logits) -> Logits:
        """The logits with minus infinity for what may not come next."""
        early = self.produced < self.generation.request.min_tokens and bool(self._ends)
        if self._matcher is None and not early:
            return logits
        allowed = logits.copy()
        if self._matcher is not None:
            self._matcher.mask(allowed)
        if not early:
            return allowed
        ends = [token for token in self._ends if token < len(logits)]
        longer = allowed.copy()
        longer[ends] = -np.inf
        # A grammar that allows nothing but the end comes before `min_tokens`.
        stuck = self._matcher is not None and bool((longer == -np.inf).all())
        return allowed if stuck else longer


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

    def push(self, sampled: Sampled, output: Output, *, may_stop: bool) -> bool:
        """Add what the token completes to `output`; whether a stop string was found.

        A stop string ends the answer if the token that completes it may.
        """
        text = self._detokenizer.push(sampled.token)
        if self._wants_tokens:
            self._pending.append((self._length, sampled))
        self._length += len(text)
        shown, stopped = self._stopper.push(text, may_stop=may_stop)
        output.text += shown
        self._shown += len(shown)
        while self._pending and self._pending[0][0] < self._shown:
            output.tokens.append(self._pending.pop(0)[1])
        return stopped

    def finish(self, output: Output) -> None:
        """Add what was held back."""
        output.text += self._stopper.flush()
        output.tokens += [sampled for _, sampled in self._pending]
