"""`/v1/completions`: the OpenAI format without a conversation (OpenAI API reference)."""

from typing import Any

import msgspec

from fungible.contract.inference import usage_from_openai
from fungible.contract.sse import frame_data
from fungible.wire.observer import Observer, Reader, Seen, broke_off, no_answer


class _Choice(msgspec.Struct):
    text: Any = None
    finish_reason: Any = None


class _Answer(msgspec.Struct):
    """The few fields of a completion or a chunk that the ledger needs."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_read = Reader(_Answer)


class CompletionObserver(Observer):
    """Reads `text_completion`, whole or in chunks. With `echo` the prompt is part of the text."""

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
        answer = _read.event(data)
        assert answer is not None  # noqa: S101  # no type of event is passed over
        if answer.error is not None:
            raise broke_off(answer.error)
        self._take(answer)
        self.stamp()
        return Seen.HIDE if not answer.choices and answer.usage is not None else Seen.SHOW

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
            if isinstance(choice.text, str) and choice.text:
                self.text(choice.text)
            if choice.finish_reason:
                self.finish_reason = str(choice.finish_reason)
                self.begun = True
        if isinstance(answer.usage, dict):
            # Running counts may come with every chunk; only those at the end are the bill.
            final = bool(self.finish_reason) or not answer.choices
            usage = usage_from_openai(answer.usage, final=final)
            if usage.source != "none":
                self.usage = usage
