"""Reads an answer in passing: token counts, finish reason, a hash of the text. Keeps no text."""

import enum
import hashlib
import time

from fungible.contract.inference import Usage


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

    def event(self, frame: bytes) -> Seen:
        """Read one whole server-sent event.

        Raises:
            StreamBrokenError: It is the upstream's own error, or malformed.
        """
        raise NotImplementedError

    def whole(self, body: bytes) -> None:
        """Read a completed answer.

        Raises:
            UpstreamConnectError: The body is not an answer of this format.
        """
        raise NotImplementedError

    def text(self, text: str) -> None:
        """Count and hash what the answer says."""
        self.begun = True
        self.chars += len(text)
        self._hash.update(text.encode("utf-8", "surrogatepass"))

    def stamp(self) -> None:
        """Note when the first token came, once there is one."""
        if self.begun and self.first_token_ns is None:
            self.first_token_ns = time.time_ns()

    @property
    def output_hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the text; empty without text."""
        return self._hash.hexdigest()[:16] if self.chars else ""
