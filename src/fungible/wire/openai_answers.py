"""What OpenAI's chat and its older completions have in common: choices, usage, `[DONE]`."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from fungible.contract.inference import usage_from_openai
from fungible.contract.sse import frame_data
from fungible.wire.observer import Observer, Reader, Seen, broke_off, no_answer


class Answer(Protocol):
    """The few fields of an answer or a chunk that the ledger needs."""

    @property
    def choices(self) -> Sequence[Any] | None:
        """Of the format's own kind."""
        ...

    id: Any
    usage: Any
    error: Any


class ChoicesObserver(Observer):
    """Reads answers that are a list of choices; a format says how one of its choices is read."""

    reader: ClassVar[Reader[Any]]

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
        answer = self.reader.event(data)
        assert answer is not None  # noqa: S101  # no type of event is passed over
        choices, usage = answer.choices, answer.usage
        if answer.error is not None:
            raise broke_off(answer.error)
        for choice in choices or ():
            self.said(choice)
            if choice.finish_reason:
                self.finish_reason = str(choice.finish_reason)
                self.begun = True
        if self.first_token_ns is None:
            self.named(answer.id)
            self.stamp()
        if usage is None:  # nearly always
            return False
        self._count(answer)
        return not choices

    def whole(self, body: bytes) -> None:
        """Read a completed answer.

        Raises:
            UpstreamConnectError: The body is not a completion.
        """
        answer = self.reader.whole(body)
        if answer.error is not None or not answer.choices:
            raise no_answer(answer.error)
        self.named(answer.id)
        for choice in answer.choices:
            self.said(choice)
            if choice.finish_reason:
                self.finish_reason = str(choice.finish_reason)
                self.begun = True
        self._count(answer)

    def said(self, choice: Any) -> None:  # noqa: ANN401  # of the format's own kind
        """Take what one choice says, or adds."""
        raise NotImplementedError

    def _count(self, answer: Answer) -> None:
        if isinstance(answer.usage, dict):
            # Running counts may come with every chunk; only those at the end are the bill.
            final = bool(self.finish_reason) or not answer.choices
            usage = usage_from_openai(answer.usage, final=final)
            if usage.source != "none":
                self.usage = usage
