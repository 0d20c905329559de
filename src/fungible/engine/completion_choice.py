"""What one answer of `/v1/completions` shows: its text, the echoed prompt, log-probabilities."""

from collections.abc import Iterable, Sequence

import msgspec

from fungible.contract.completions import (
    CompletionChoice,
    CompletionLogprobs,
    PromptLogprob,
    ScoredChoice,
)
from fungible.engine.bare_prompt import BarePrompt
from fungible.engine.generation import Output
from fungible.engine.sampler import Sampled
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import EngineError


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a request wants to see.

    Attributes:
        echo: The prompt, before the answer.
        answer: The answer; without it the prompt is only scored.
        logprobs: Alternatives for each token; `None` shows no log-probabilities.
        prompt_logprobs: Alternatives for each prompt token in vLLM's form, likewise.
    """

    echo: bool = False
    answer: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None


class ChoiceWriter:
    """Turns the outputs of one answer into choices, one after the other.

    Args:
        index: The choice's.
    """

    def __init__(
        self, index: int, prompt: BarePrompt, shown: Shown, tokenizer: ChatTokenizer
    ) -> None:
        self._index = index
        self._prompt = prompt
        self._shown = shown
        self._pieces = tokenizer.pieces
        self._stream = tokenizer.stream(continues=prompt.continues)
        self._offset = len(prompt.text) if shown.echo else 0
        self._first = True

    def choice(self, output: Output) -> CompletionChoice:
        """What `output` adds to the answer; the first one brings the prompt.

        Raises:
            EngineError: The request wants the prompt's scores, and the scheduler sent none.
        """
        logprobs = None if self._shown.logprobs is None else _columns(self._shown.logprobs)
        first, self._first = self._first, False
        text = ""
        if first and self._shown.echo:
            text = self._prompt.text
            if logprobs is not None:
                self._add_prompt(logprobs, output.prompt)
        if self._shown.answer:
            text += output.text
            if logprobs is not None:
                self._add_answer(logprobs, output.tokens)
                if output.end is not None:
                    self._add(logprobs, output.end, self._offset)
        reason = output.finish_reason
        if reason is not None and not self._shown.answer:
            reason = "length"
        if first and self._shown.prompt_logprobs is not None:
            return ScoredChoice(
                index=self._index,
                text=text,
                logprobs=logprobs,
                finish_reason=reason,
                prompt_logprobs=self._scores(output.prompt, self._shown.prompt_logprobs),
            )
        return CompletionChoice(
            index=self._index, text=text, logprobs=logprobs, finish_reason=reason
        )

    def _add_prompt(self, columns: CompletionLogprobs, scored: Sequence[Sampled]) -> None:
        self._check_scored(scored)
        starts = self._prompt.starts(self._pieces)
        columns.tokens.append(self._name(self._prompt.tokens[0]))
        columns.token_logprobs.append(None)
        columns.text_offset.append(starts[0])
        if columns.top_logprobs is not None:
            columns.top_logprobs.append(None)
        for start, sampled in zip(starts[1:], scored, strict=True):
            self._add(columns, sampled, start)

    def _add_answer(self, columns: CompletionLogprobs, tokens: Iterable[Sampled]) -> None:
        for sampled in tokens:
            self._add(columns, sampled, self._offset)
            self._offset += len(self._stream.push(sampled.token))

    def _add(self, columns: CompletionLogprobs, sampled: Sampled, start: int) -> None:
        name, logprob = self._name(sampled.token), sampled.logprob or 0.0
        columns.tokens.append(name)
        columns.token_logprobs.append(logprob)
        columns.text_offset.append(start)
        if columns.top_logprobs is not None:
            top: dict[str, float] = {}
            for token, value in sampled.top[: self._shown.logprobs]:
                top.setdefault(self._name(token), value)
            top.setdefault(name, logprob)
            columns.top_logprobs.append(top)

    def _scores(
        self, scored: Sequence[Sampled], count: int
    ) -> list[dict[int, PromptLogprob] | None]:
        """The likeliest tokens at each place, and the prompt's own; ranks as far as known."""
        self._check_scored(scored)
        places: list[dict[int, PromptLogprob] | None] = [None]
        for sampled in scored:
            ranks = {token: at + 1 for at, (token, _) in enumerate(sampled.top)}
            values = {sampled.token: sampled.logprob or 0.0, **dict(sampled.top[:count])}
            places.append(
                {
                    token: PromptLogprob(
                        logprob=value, rank=ranks.get(token), decoded_token=self._name(token)
                    )
                    for token, value in values.items()
                }
            )
        return places

    def _check_scored(self, scored: Sequence[Sampled]) -> None:
        if len(scored) != len(self._prompt.tokens) - 1:
            raise EngineError(
                f"{len(scored)} tokens of the prompt were scored, "
                f"not {len(self._prompt.tokens) - 1}"
            )

    def _name(self, token: int) -> str:
        data = self._pieces.spelled(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _columns(alternatives: int) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=[],
        token_logprobs=[],
        text_offset=[],
        top_logprobs=[] if alternatives else None,
    )
