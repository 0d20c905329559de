"""What the rest of the system needs to know of each wire format, in one record."""

from collections.abc import Callable
from typing import Any

import msgspec

from fungible.contract.inference import Endpoint
from fungible.contract.sse import encode_frame
from fungible.errors import FungibleError
from fungible.wire.chat import ChatObserver
from fungible.wire.observer import Observer


class WireFormat(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of the contract.

    Attributes:
        observer: Reads its answers.
        error_body: An error as this format says it, for a whole answer.
        error_event: The same as the event that ends a broken stream.
        last: Name of the event that ends a stream; empty where nothing is streamed.
        asks_usage: Whether a stream reports usage only where `stream_options` asks for it.
    """

    endpoint: Endpoint
    observer: Callable[[], Observer]
    error_body: Callable[[FungibleError], dict[str, Any]]
    error_event: Callable[[FungibleError], bytes]
    last: str = ""
    asks_usage: bool = False


def openai_error_event(error: FungibleError) -> bytes:
    """An OpenAI error body as one event; no `[DONE]` follows it."""
    return encode_frame(msgspec.json.encode(error.to_openai()))


FORMATS: dict[Endpoint, WireFormat] = {
    "chat/completions": WireFormat(
        endpoint="chat/completions",
        observer=ChatObserver,
        error_body=FungibleError.to_openai,
        error_event=openai_error_event,
        last="[DONE]",
        asks_usage=True,
    ),
}
