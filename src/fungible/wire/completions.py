"""`/v1/completions`: the OpenAI format without a conversation (OpenAI API reference)."""

from typing import Any

import msgspec

from fungible.wire.observer import Reader
from fungible.wire.openai_answers import ChoicesObserver


class _Choice(msgspec.Struct):
    text: Any = None
    finish_reason: Any = None


class _Answer(msgspec.Struct):
    id: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


class CompletionObserver(ChoicesObserver):
    """Reads `text_completion`, whole or in chunks. With `echo` the prompt is part of the text."""

    reader = Reader(_Answer)

    def said(self, choice: _Choice) -> None:
        """Take its text."""
        if isinstance(choice.text, str) and choice.text:
            self.text(choice.text)
