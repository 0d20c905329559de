"""`/v1/chat/completions`: the OpenAI chat format (OpenAI API reference)."""

from typing import Any

import msgspec

from fungible.contract.sse import frame_data
from fungible.errors import StreamBrokenError
from fungible.wire.observer import HASHED_AT_ONCE, LONG, Reader, Seen
from fungible.wire.openai_answers import ChoicesObserver
from fungible.wire.repeated import Example, text_field

_CONTENT = text_field("content")


class _Part(msgspec.Struct, gc=False):
    """A message or what a chunk adds to one. Servers differ, so nothing here is checked."""

    content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Part | None = None
    message: _Part | None = None
    finish_reason: Any = None


class _Answer(msgspec.Struct, gc=False):
    id: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


class ChatObserver(ChoicesObserver):
    """Reads `chat.completion` and `chat.completion.chunk`."""

    reader = Reader(_Answer)

    def __init__(self) -> None:
        super().__init__()
        self._example = Example(_CONTENT, _only_text)

    def event(self, frame: bytes) -> Seen:
        """Read one event; `[DONE]` is the last."""
        seen = super().event(frame)
        self._example.learn(frame, self.pieces)
        return seen

    def again(self, events: bytes) -> bool:
        """Whether nothing but its text tells an event from the example; see `wire.repeated`."""
        example = self._example
        if not (events.startswith(example.before) and events.endswith(example.after)):
            return False
        try:
            text = events[example.start : example.end].decode()
        except UnicodeDecodeError:
            return False
        # Printable: JSON allows no control characters, and an event ends at an empty line.
        if not text or not text.isprintable() or '"' in text or "\\" in text:
            return False
        unhashed = self._unhashed
        unhashed.append(text)
        if len(unhashed) >= HASHED_AT_ONCE or len(text) > LONG:
            self._hash_rest()
        return True

    def said(self, choice: _Choice) -> None:
        """Take its text, its refusal and what it calls; thoughts begin an answer, too."""
        part = choice.delta or choice.message
        if part is None:
            return
        text = part.content if isinstance(part.content, str) else _text(part.content)
        if part.refusal or part.tool_calls or part.function_call:
            text += _text(part.refusal) + _text(part.tool_calls) + _text(part.function_call)
        if text:
            self.text(text)
        elif part.reasoning_content or part.reasoning:
            self.begun = True


def _only_text(frame: bytes) -> str | None:
    """What an event adds to the only choice, if nothing else in it matters; see `ChatObserver`."""
    data = frame_data(frame)
    try:
        answer = ChatObserver.reader.event(data or b"")
    except StreamBrokenError:
        return None
    if answer is None or answer.error is not None or answer.usage is not None:
        return None
    choices = answer.choices or []
    if len(choices) != 1 or choices[0].finish_reason:
        return None
    part = choices[0].delta or _Part()
    if part.refusal or part.tool_calls or part.function_call:
        return None
    return part.content if isinstance(part.content, str) else None


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
