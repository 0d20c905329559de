"""Reads an answer in passing: token counts, finish reason, a hash of the text. Keeps no text."""

import hashlib
import time
from typing import Any

import msgspec

from fungible.contract.inference import Usage, usage_from_openai
from fungible.errors import StreamBrokenError, UpstreamConnectError


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


_decode = msgspec.json.Decoder(_Answer).decode


class Observation:
    """What one answer has shown so far.

    Attributes:
        first_token_ns: When the first token of a stream arrived, be it thought or spoken, in
            ns since the epoch; `None` until then, and for an answer that came in one piece.
        usage: As reported by the backend; its source is `none` until it reports.
        finish_reason: As reported; empty until then.
        chars: Length of the answer's text so far.
        begun: Whether there is anything to show to a client.
    """

    def __init__(self) -> None:
        self.first_token_ns: int | None = None
        self.usage = Usage()
        self.finish_reason = ""
        self.chars = 0
        self.begun = False
        self._hash = hashlib.sha256()

    def chunk(self, data: bytes) -> bool:
        """Read the data of one event; whether it carries nothing but usage.

        Raises:
            StreamBrokenError: The event is the upstream's own error, or not JSON.
        """
        try:
            answer = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StreamBrokenError(
                f"the backend sent an event that is not JSON: {error}"
            ) from error
        if answer.error is not None:
            raise StreamBrokenError(f"the backend broke off: {_said(answer.error)}")
        self._take(answer)
        if self.begun and self.first_token_ns is None:
            self.first_token_ns = time.time_ns()
        return not answer.choices and answer.usage is not None

    def whole(self, body: bytes) -> None:
        """Read a completed answer.

        Raises:
            UpstreamConnectError: The body is not a completion.
        """
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamConnectError(f"the backend's answer is malformed: {error}") from error
        if answer.error is not None or not answer.choices:
            raise UpstreamConnectError(f"the backend gave no answer: {_said(answer.error)}")
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
            self.begun = True
            self.chars += len(text)
            self._hash.update(text.encode("utf-8", "surrogatepass"))
        elif part.reasoning_content or part.reasoning:
            self.begun = True

    @property
    def output_hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the text; empty without text."""
        return self._hash.hexdigest()[:16] if self.chars else ""


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


def _said(error: Any) -> str:  # noqa: ANN401  # whatever JSON the upstream put there
    if isinstance(error, dict):
        return str(error.get("message", error))[:300]
    return str(error)[:300]
