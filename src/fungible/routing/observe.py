"""Reads an answer in passing: token counts, finish reason, a hash of the text. Keeps no text."""

import hashlib
import time
from typing import Any

import msgspec

from fungible.contract.inference import Usage, usage_from_openai
from fungible.errors import StreamBrokenError, UpstreamConnectError


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """The few fields of a completion or a chunk that the ledger needs."""

    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class Observation:
    """What one answer has shown so far.

    Attributes:
        first_token_ns: When the first text arrived, in ns since the epoch; `None` until then.
        usage: As reported by the backend; its source is `none` until it reports.
    """

    def __init__(self) -> None:
        self.first_token_ns: int | None = None
        self.usage = Usage()
        self.finish_reason = ""
        self.chars = 0
        self._hash = hashlib.sha256()

    def chunk(self, data: bytes) -> bool:
        """Read the data of one event; whether it carries nothing but usage.

        Raises:
            StreamBrokenError: The event is the upstream's own error, or not JSON.
        """
        try:
            answer = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StreamBrokenError(
                f"the backend sent an event that is not JSON: {error}"
            ) from error
        if answer.error is not None:
            raise StreamBrokenError(f"the backend broke off: {_said(answer.error)}")
        self._take(answer)
        return not answer.choices and answer.usage is not None

    def whole(self, body: bytes) -> None:
        """Read a completed answer.

        Raises:
            UpstreamConnectError: The body is not a completion.
        """
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamConnectError(f"the backend's answer is malformed: {error}") from error
        if answer.error is not None or not answer.choices:
            raise UpstreamConnectError(f"the backend gave no answer: {_said(answer.error)}")
        self._take(answer)

    def _take(self, answer: _Answer) -> None:
        if answer.usage is not None:
            self.usage = usage_from_openai(answer.usage)
        for choice in answer.choices:
            part = choice.delta or choice.message
            if part is not None and part.content:
                self._text(part.content)
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason

    def _text(self, text: str) -> None:
        if self.first_token_ns is None:
            self.first_token_ns = time.time_ns()
        self.chars += len(text)
        self._hash.update(text.encode("utf-8", "surrogatepass"))

    @property
    def output_hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the text; empty without text."""
        return self._hash.hexdigest()[:16] if self.chars else ""


def _said(error: Any) -> str:  # noqa: ANN401  # whatever JSON the upstream put there
    if isinstance(error, dict):
        return str(error.get("message", error))[:300]
    return str(error)[:300]
