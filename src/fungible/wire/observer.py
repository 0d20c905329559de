"""Reads an answer in passing: token counts, finish reason, a hash of the text. Keeps no text."""

import enum
import hashlib
import time
from collections.abc import Collection
from typing import Any, Generic, TypeVar

import msgspec

from fungible.contract.inference import Usage
from fungible.errors import StreamBrokenError, UpstreamConnectError

_Answer = TypeVar("_Answer")
# Pieces of a text that wait to be hashed: one call for many costs less, and few are kept.
HASHED_AT_ONCE, LONG = 32, 4096
_LONGEST_ID = 200


class Seen(enum.Enum):
    """What one event of a stream is to the client."""

    SHOW = "show"
    HIDE = "hide"  # nothing but usage, which the client may not have asked for
    END = "end"  # the format's own last event: withheld until the row is on disk


class Observer:
    """What one answer has shown so far; one subclass for each wire format.

    Attributes:
        first_token_ns: When the first token of a stream arrived, be it thought or spoken, in
            ns since the epoch; `None` until then, and for an answer that came in one piece.
        usage: As reported by the backend; its source is `none` until it reports.
        finish_reason: As reported; empty until then.
        response_id: What the upstream calls its answer; empty where it gives it no id.
        begun: Whether there is anything to show to a client.
        number: The number of the next event, where a format numbers its events.
    """

    def __init__(self) -> None:
        self.first_token_ns: int | None = None
        self.usage = Usage()
        self.finish_reason = ""
        self.response_id = ""
        self.begun = False
        self.number = 0
        self._hash = hashlib.sha256()
        self._chars = self._pieces = 0
        self._unhashed: list[str] = []

    def event(self, frame: bytes) -> Seen:
        """Read one whole server-sent event.

        Raises:
            StreamBrokenError: It is the upstream's own error, or malformed.
        """
        raise NotImplementedError

    def again(self, events: bytes) -> bool:
        """Whether it is one event that resembles an earlier one, to be shown, and is now read.

        Not more than a short cut: what it does not take is for `event`.
        """
        del events
        return False

    def whole(self, body: bytes) -> None:
        """Read a completed answer.

        Raises:
            UpstreamConnectError: The body is not an answer of this format.
        """
        raise NotImplementedError

    def text(self, text: str) -> None:
        """Count and hash what the answer says."""
        self.begun = True
        unhashed = self._unhashed
        unhashed.append(text)
        if len(unhashed) >= HASHED_AT_ONCE or len(text) > LONG:
            self._hash_rest()

    def _hash_rest(self) -> None:
        text = "".join(self._unhashed)
        self._chars += len(text)
        self._pieces += len(self._unhashed)
        self._hash.update(text.encode("utf-8", "surrogatepass"))
        self._unhashed.clear()

    def named(self, name: object) -> None:
        """Keep the answer's id: the first that is one."""
        if not self.response_id and isinstance(name, str):
            self.response_id = name[:_LONGEST_ID]

    def stamp(self) -> None:
        """Note when the first token came, once there is one."""
        if self.begun and self.first_token_ns is None:
            self.first_token_ns = time.time_ns()

    @property
    def chars(self) -> int:
        """Length of the answer's text so far."""
        self._hash_rest()
        return self._chars

    @property
    def pieces(self) -> int:
        """How many pieces that text came in: about its tokens, in a stream."""
        return self._pieces + len(self._unhashed)

    @property
    def output_hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the text; empty without text."""
        return self._hash.hexdigest()[:16] if self.chars else ""


class Reader(Generic[_Answer]):
    """Decodes what a backend sent into the few fields that are read of it."""

    def __init__(self, kind: type[_Answer]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def event(self, data: bytes, known: Collection[str] = ()) -> _Answer | None:
        """The data of one event.

        Args:
            data: JSON.
            known: Types of events whose shape matters; another type's shape may be any, and
                is then `None`.

        Raises:
            StreamBrokenError: It is not JSON, or of another shape.
        """
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if known and _foreign(data, known):
                return None
            raise StreamBrokenError(
                f"the backend sent an event that is not JSON: {error}"
            ) from error

    def whole(self, body: bytes) -> _Answer:
        """A completed answer; `UpstreamConnectError` where it is something else."""
        try:
            return self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamConnectError(f"the backend's answer is malformed: {error}") from error


class _Typed(msgspec.Struct):
    type: str


_read_type = msgspec.json.Decoder(_Typed).decode


def _foreign(data: bytes, known: Collection[str]) -> bool:
    try:
        return _read_type(data).type not in known
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def broke_off(error: Any) -> StreamBrokenError:  # noqa: ANN401  # whatever JSON was there
    """The upstream's own error in a stream, in its words."""
    return StreamBrokenError(f"the backend broke off: {said(error)}")


def no_answer(error: Any) -> UpstreamConnectError:  # noqa: ANN401  # whatever JSON was there
    """A body that holds no answer; the upstream's words if it gave any."""
    return UpstreamConnectError(f"the backend gave no answer: {said(error)}")


def said(error: Any) -> str:  # noqa: ANN401  # whatever JSON was there
    """The message of an upstream's error, at most 300 characters."""
    if isinstance(error, dict):
        return str(error.get("message", error))[:300]
    return str(error)[:300]
