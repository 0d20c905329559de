"""The faults by name: what the model server does, and what a client should be told."""

import dataclasses
from typing import Any, Literal

Verdict = Literal["whole", "error", "silent cut", "false end", "wrong text", "hang"]
WORDS = ("Grüße", " aus", " Köln", " und", " 東京", " 🙂")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to misbehave.

    Attributes:
        says: What the server does, for a reader.
        script: Arguments of `upstream.Script`.
        stream: Whether a stream is asked for.
        right: What a client should see: the whole answer, or an explicit error.
        or_right: What is as defensible.
    """

    says: str
    script: dict[str, Any] = dataclasses.field(default_factory=dict)
    stream: bool = True
    right: Verdict = "whole"
    or_right: Verdict | None = None


_COUNTS = {
    "prompt_tokens": 100,
    "completion_tokens": 40,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 80},
    "completion_tokens_details": {"reasoning_tokens": 30},
}
_ZERO = {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}
FAULTS: dict[str, Fault] = {
    "none": Fault(says="nothing wrong, streamed"),
    "none-whole": Fault(says="nothing wrong, not streamed", stream=False),
    "cut": Fault(says="closes after 3 of 6 words", script={"cut_after": 3}, right="error"),
    "cut-first": Fault(says="closes before the first word", script={"cut_after": 0}, right="error"),
    "reset": Fault(says="resets after 3 words", script={"reset_after": 3}, right="error"),
    "stall": Fault(says="silent after 3 words", script={"stall_after": 3}, right="error"),
    "stall-first": Fault(
        says="silent before the first word", script={"stall_after": 0}, right="error"
    ),
    "malformed": Fault(
        says="an event that is not JSON", script={"malformed_after": 2}, right="error"
    ),
    "error-event": Fault(
        says="an error event inside a 200 stream", script={"error_after": 3}, right="error"
    ),
    "no-done": Fault(
        says="ends without [DONE]", script={"done": False}, right="error", or_right="whole"
    ),
    "no-space": Fault(says="no space after `data:`", script={"bare_colon": True}),
    "crlf": Fault(says="CRLF line ends", script={"crlf": True}),
    "split-utf8": Fault(says="one byte a TCP write", script={"piece": 1}),
    "ping": Fault(says="comments and empty events between words", script={"ping": True}),
    "huge": Fault(says="one event of 1 MB", script={"words": ("x" * 1_000_000,)}),
    "gzip": Fault(says="gzip content-encoding, streamed", script={"gzipped": True}),
    "gzip-whole": Fault(
        says="gzip content-encoding, not streamed", script={"gzipped": True}, stream=False
    ),
    "usage-twice": Fault(says="the same usage twice", script={"usage": "twice"}),
    "usage-each": Fault(says="usage with every event", script={"usage": "each"}),
    "usage-never": Fault(says="no usage at all", script={"usage": "never"}),
    "incomplete": Fault(says="finish_reason `length`, with usage", script={"finish": "length"}),
    "html": Fault(
        says="200 with an HTML page",
        script={"content_type": "text/html", "body": b"<html>sorry</html>"},
        right="error",
    ),
    "html-whole": Fault(
        says="200 with an HTML page, not streamed",
        script={"content_type": "text/html", "body": b"<html>sorry</html>"},
        stream=False,
        right="error",
    ),
    "busy": Fault(
        says="429 with Retry-After",
        script={"status": 429, "headers": {"Retry-After": "7"}},
        right="error",
    ),
    "limited": Fault(says="429, no Retry-After", script={"status": 429}, right="error"),
    "slow-headers": Fault(says="headers after 0.7 s", script={"wait_s": 0.7}),
    "cut-whole": Fault(
        says="closes inside a whole body",
        script={"cut_body_after": 40},
        stream=False,
        right="error",
    ),
    "error-whole": Fault(
        says="an error object under status 200",
        script={"body": b'{"error": {"message": "out of memory"}}'},
        stream=False,
        right="error",
    ),
    "slow": Fault(
        says="nothing wrong, 0.05 s a word", script={"words": (" word",) * 60, "word_s": 0.05}
    ),
    "usage-each-slow": Fault(
        says="usage with every event, 0.05 s a word",
        script={"words": (" word",) * 60, "word_s": 0.05, "usage": "each"},
    ),
    "cached": Fault(says="cached and reasoning tokens", script={"counts": _COUNTS}),
    "cached-whole": Fault(says="the same, not streamed", script={"counts": _COUNTS}, stream=False),
    "zero": Fault(says="a usage of 0 tokens", script={"counts": _ZERO}),
}


def words(name: str) -> str:
    """The text of the whole answer."""
    return "".join(FAULTS[name].script.get("words", WORDS))


def scripts() -> dict[str, Any]:
    """A `Script` for every fault."""
    from faults.upstream import Script  # noqa: PLC0415  # see above

    return {name: Script(**{"words": WORDS, **fault.script}) for name, fault in FAULTS.items()}
