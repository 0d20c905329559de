"""The answers of a chat request as they are written: whole, or as events."""

import time
from collections.abc import Sequence

import msgspec

from fungible.contract.ids import new_id
from fungible.contract.openai import (
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FunctionDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    UsageBody,
)
from fungible.contract.sse import DONE, encode_frame
from fungible.engine.detokenizer import Pieces
from fungible.engine.generation import Output
from fungible.engine.sampler import Sampled
from fungible.engine.tool_calls import ToolParser


class ChatAnswer:
    """Encodes the response to one request.

    Args:
        model: The served model's name.
        pieces: Spells tokens, for log-probabilities; `None` shows none.
        parsers: For each choice what finds its calls, or `None` where it cannot have any.
        with_usage: Whether a stream ends in an event with usage.
    """

    def __init__(
        self,
        model: str,
        *,
        pieces: Pieces | None,
        parsers: Sequence[ToolParser | None],
        with_usage: bool,
    ) -> None:
        self._id = new_id("chatcmpl-")
        self._created = int(time.time())
        self._model = model
        self._pieces = pieces
        self._parsers = parsers
        self._calls = [0] * len(parsers)
        self._with_usage = with_usage

    def whole(self, outputs: Sequence[Output], usage: UsageBody) -> bytes:
        """The body of a response that does not stream."""
        body = ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(index, output) for index, output in enumerate(outputs)],
            usage=usage,
        )
        return msgspec.json.encode(body)

    def opening(self) -> bytes:
        """The events that name the role of each choice."""
        return b"".join(
            self._frame([ChunkChoice(index=at, delta=Delta(role="assistant", content=""))])
            for at in range(len(self._parsers))
        )

    def frames(self, index: int, output: Output) -> bytes:
        """Events of one output: its text, its calls, and its end by itself."""
        content, calls = self._read(index, output)
        data = b""
        if content or output.tokens:
            data += self._event(index, Delta(content=content), self._logprobs(output))
        first = self._calls[index] - len(calls)
        for at, call in enumerate(calls, start=first):
            data += self._call_events(index, at, call)
        if output.finish_reason is not None:
            reason = self._reason(index, output.finish_reason)
            ended = ChunkChoice(index=index, delta=Delta(), finish_reason=reason)
            data += self._frame([ended])
        return data

    def closing(self, usage: UsageBody) -> bytes:
        """Usage, when it was asked for, and `[DONE]`."""
        return self._frame([], usage) + DONE if self._with_usage else DONE

    def _choice(self, index: int, output: Output) -> Choice:
        content, calls = self._read(index, output)
        message = AssistantMessage(content=content if content or not calls else None)
        if calls:
            message.tool_calls = calls
        return Choice(
            index=index,
            message=message,
            logprobs=self._logprobs(output),
            finish_reason=self._reason(index, output.finish_reason),
        )

    def _read(self, index: int, output: Output) -> tuple[str, list[ToolCall]]:
        parser = self._parsers[index]
        if parser is None:
            return output.text, []
        read = parser.push(output.text)
        content, calls = read.content, list(read.calls)
        if output.finish_reason is not None:
            rest = parser.finish()
            content, calls = content + rest.content, calls + rest.calls
        self._calls[index] += len(calls)
        return content, calls

    def _reason(self, index: int, reason: str | None) -> str | None:
        return "tool_calls" if reason == "stop" and self._calls[index] else reason

    def _call_events(self, index: int, at: int, call: ToolCall) -> bytes:
        name = FunctionDelta(name=call.function.name, arguments="")
        first = ToolCallDelta(index=at, id=call.id, type=call.type, function=name)
        rest = ToolCallDelta(index=at, function=FunctionDelta(arguments=call.function.arguments))
        return b"".join(self._event(index, Delta(tool_calls=[one])) for one in (first, rest))

    def _event(self, index: int, delta: Delta, logprobs: ChoiceLogprobs | None = None) -> bytes:
        return self._frame([ChunkChoice(index=index, delta=delta, logprobs=logprobs)])

    def _frame(self, choices: list[ChunkChoice], usage: UsageBody | None = None) -> bytes:
        chunk = ChatChunk(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )
        return encode_frame(msgspec.json.encode(chunk))

    def _logprobs(self, output: Output) -> ChoiceLogprobs | None:
        if self._pieces is None:
            return None
        pieces = self._pieces
        return ChoiceLogprobs(content=[_token_logprob(pieces, one) for one in output.tokens])


def _token_logprob(pieces: Pieces, sampled: Sampled) -> TokenLogprob:
    top = [_spelled(pieces, token, logprob) for token, logprob in sampled.top]
    own = _spelled(pieces, sampled.token, sampled.logprob or 0.0)
    return TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=top)


def _spelled(pieces: Pieces, token: int, logprob: float) -> TopLogprob:
    data = pieces.spelled(token)
    return TopLogprob(token=data.decode(errors="replace"), logprob=logprob, bytes=list(data))
