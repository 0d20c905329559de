"""`/v1/messages`: the Anthropic format (Anthropic API reference, Messages and streaming)."""

from typing import Any

import msgspec

from fungible.contract.anthropic import error_type
from fungible.contract.inference import Usage, usage_from_anthropic
from fungible.contract.sse import encode_event, frame_data
from fungible.errors import FungibleError
from fungible.wire.observer import Observer, Reader, Seen, broke_off, no_answer


class _Block(msgspec.Struct):
    """A content block, or what one event adds to it."""

    type: Any = None
    text: Any = None
    name: Any = None
    input: Any = None
    partial_json: Any = None
    thinking: Any = None


class _Head(msgspec.Struct):
    id: Any = None
    usage: Any = None


class _Delta(_Block):
    stop_reason: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    message: _Head | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: Any = None
    error: Any = None


class _Message(msgspec.Struct):
    id: Any = None
    type: Any = None
    content: list[_Block] | None = None
    stop_reason: Any = None
    usage: Any = None
    error: Any = None


_KNOWN = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
        "error",
    }
)
_read_event, _read_message = Reader(_Event), Reader(_Message)


class MessageObserver(Observer):
    """Reads a message, whole or as events from `message_start` to `message_stop`.

    Counts in `message_delta` are running totals of the whole message: they replace what
    `message_start` said and are never added to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Any] = {}

    def event(self, frame: bytes) -> Seen:
        """Read one event; `message_stop` is the last. Pings and unknown events pass.

        Raises:
            StreamBrokenError: The event is the upstream's own error, or not JSON.
        """
        data = frame_data(frame)
        if data is None or not data.strip():
            return Seen.SHOW
        event = _read_event.event(data, _KNOWN)
        if event is None:
            return Seen.SHOW
        if event.error is not None or event.type == "error":
            raise broke_off(event.error)
        if event.type == "message_stop":
            self._count({}, final=True)
            return Seen.END
        self._take(event)
        self.stamp()
        return Seen.SHOW

    def whole(self, body: bytes) -> None:
        """Read a completed message.

        Raises:
            UpstreamConnectError: The body is not a message.
        """
        message = _read_message.whole(body)
        if message.error is not None or message.content is None:
            raise no_answer(message.error)
        self.named(message.id)
        for block in message.content:
            self._block(block)
        self.begun = True
        self.finish_reason = str(message.stop_reason or "")
        self._count(message.usage, final=True)

    def _take(self, event: _Event) -> None:
        if event.message is not None:
            self.named(event.message.id)
            self._count(event.message.usage, final=False)
        if event.content_block is not None:
            self._block(event.content_block)
        if event.delta is not None:
            self._block(event.delta)
            if event.delta.stop_reason:
                self.finish_reason = str(event.delta.stop_reason)
                self.begun = True
        if event.usage is not None:
            self._count(event.usage, final=bool(self.finish_reason))

    def _block(self, block: _Block) -> None:
        said = (block.text, block.name, block.partial_json)
        text = "".join(part for part in said if isinstance(part, str))
        if isinstance(block.input, dict) and block.input:
            text += msgspec.json.encode(block.input).decode()
        if text:
            self.text(text)
        elif block.thinking:
            self.begun = True

    def _count(self, usage: Any, *, final: bool) -> None:  # noqa: ANN401  # upstream's JSON
        if isinstance(usage, dict):
            self._counts |= {name: count for name, count in usage.items() if count is not None}
        read = usage_from_anthropic(self._counts, final=final)
        if read.source != "none":
            self.usage = read


class _Counted(msgspec.Struct):
    input_tokens: Any = None
    count: Any = None  # vLLM's `/tokenize`
    error: Any = None


_read_count = Reader(_Counted)
_NOTHING_USED = Usage(
    in_uncached=0,
    in_cache_read=0,
    in_cache_write=0,
    out_visible=0,
    out_reasoning=0,
    source="provider_final",
)


class CountObserver(Observer):
    """Reads the answer of a token counter. Counting runs no model: it uses no tokens."""

    def whole(self, body: bytes) -> None:
        """Check that it is a count.

        Raises:
            UpstreamConnectError: It is not.
        """
        answer = _read_count.whole(body)
        count = answer.count if answer.input_tokens is None else answer.input_tokens
        if answer.error is not None or not isinstance(count, int):
            raise no_answer(answer.error)
        self.begun = True
        self.finish_reason = "stop"
        self.usage = _NOTHING_USED


def anthropic_error(error: FungibleError) -> dict[str, Any]:
    """The error body of the Anthropic API."""
    said = error.to_openai()["error"]["message"]
    detail = {"type": error_type(error.status), "message": said}
    return {"type": "error", "error": detail}


def anthropic_error_event(error: FungibleError, number: int = 0) -> bytes:
    """The same as the event that ends a broken stream; no `message_stop` follows it.

    Events of this format have no numbers.
    """
    del number
    return encode_event("error", msgspec.json.encode(anthropic_error(error)))
