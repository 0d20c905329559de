"""`/v1/chat/completions`: the OpenAI chat format (OpenAI API reference)."""

from typing import Any

import msgspec

from fungible.wire.observer import Reader
from fungible.wire.openai_answers import ChoicesObserver


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
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


class ChatObserver(ChoicesObserver):
    """Reads `chat.completion` and `chat.completion.chunk`."""

    reader = Reader(_Answer)

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
