"""`/v1/chat/completions`: the OpenAI chat format (OpenAI API reference)."""

from typing import Any

import msgspec

from fungible.contract.inference import usage_from_openai
from fungible.contract.sse import frame_data
from fungible.wire.observer import Observer, Reader, Seen, broke_off, no_answer


class _Part(msgspec.Struct):
    """A message or what a chunk adds to one. Servers differ, so nothing here is checked."""

    content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(msgspec.Struct):
    delta: _Part | None = None
    message: _Part | None = None
    finish_reason: Any = None


class _Answer(msgspec.Struct):
    """The few fields of a completion or a chunk that the ledger needs."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_read = Reader(_Answer)


class ChatObserver(Observer):
    """Reads `chat.completion` and `chat.completion.chunk`."""

    def event(self, frame: bytes) -> Seen:
        """Read one event; `[DONE]` is the last.

        Raises:
            StreamBrokenError: The event is the upstream's own error, or not JSON.
        """
        data = frame_data(frame)
        if data is None:
            return Seen.SHOW
        if len(data) < 16 and data.strip() == b"[DONE]":
            return Seen.END
        return Seen.HIDE if self.chunk(data) else Seen.SHOW

    def chunk(self, data: bytes) -> bool:
        """Read the data of one event; whether it carries nothing but usage.

        Raises:
            StreamBrokenError: The event is the upstream's own error, or not JSON.
        """
        answer = _read.event(data)
        assert answer is not None  # noqa: S101  # no type of event is passed over
        if answer.error is not None:
            raise broke_off(answer.error)
        self._take(answer)
        self.stamp()
        return not answer.choices and answer.usage is not None

    def whole(self, body: bytes) -> None:
        """Read a completed answer.

        Raises:
            UpstreamConnectError: The body is not a completion.
        """
        answer = _read.whole(body)
        if answer.error is not None or not answer.choices:
            raise no_answer(answer.error)
        self._take(answer)

    def _take(self, answer: _Answer) -> None:
        for choice in answer.choices or ():
            part = choice.delta or choice.message
            if part is not None:
                self._part(part)
            if choice.finish_reason:
                self.finish_reason = str(choice.finish_reason)
                self.begun = True
        if isinstance(answer.usage, dict):
            # Running counts may come with every chunk; only those at the end are the bill.
            final = bool(self.finish_reason) or not answer.choices
            usage = usage_from_openai(answer.usage, final=final)
            if usage.source != "none":
                self.usage = usage

    def _part(self, part: _Part) -> None:
        text = part.content if isinstance(part.content, str) else _text(part.content)
        if part.refusal or part.tool_calls or part.function_call:
            text += _text(part.refusal) + _text(part.tool_calls) + _text(part.function_call)
        if text:
            self.text(text)
        elif part.reasoning_content or part.reasoning:
            self.begun = True


def _text(value: Any) -> str:  # noqa: ANN401  # whatever JSON the upstream put there
    """Text as it is, tool calls by what they call, anything else as JSON."""
    if not value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(call, dict) for call in value):
        called = [call.get("function") for call in value]
        if all(isinstance(function, dict) for function in called):
            # Ids are random: leaving them out keeps the hash of equal answers equal.
            return "".join(
                f"{function.get('name') or ''}{function.get('arguments') or ''}"
                for function in called
                if isinstance(function, dict)
            )
    return msgspec.json.encode(value).decode()
