"""What the rest of the system needs to know of each wire format, in one record."""

from collections.abc import Callable
from typing import Any

import msgspec

from fungible.contract.anthropic import parse_count_tokens, parse_messages
from fungible.contract.completions import parse_completion, read_prompts
from fungible.contract.embeddings import EmbeddingRequest, check_embedding, read_inputs
from fungible.contract.inference import Endpoint
from fungible.contract.openai import decode_body, parse_chat, read_fields
from fungible.contract.responses import parse_responses
from fungible.contract.sse import encode_frame
from fungible.errors import FungibleError, RequestError
from fungible.wire.chat import ChatObserver
from fungible.wire.completions import CompletionObserver
from fungible.wire.embeddings import EmbeddingObserver
from fungible.wire.messages import (
    CountObserver,
    MessageObserver,
    anthropic_error,
    anthropic_error_event,
)
from fungible.wire.observer import Observer
from fungible.wire.responses import ResponseObserver, responses_error_event


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the edge has to know of a request's body.

    Attributes:
        body: The whole of it, as decoded.
    """

    model: str
    stream: bool
    body: dict[str, Any]


class WireFormat(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of the contract.

    Attributes:
        read: A request's body, checked; `RequestError` names the field at fault.
        observer: Reads its answers.
        error_body: An error as this format says it, for a whole answer.
        error_event: The same as the event that ends a broken stream, with its number.
        last: Name of the event that ends a stream; empty where nothing is streamed.
        asks_usage: Whether a stream reports usage only where `stream_options` asks for it.
    """

    endpoint: Endpoint
    read: Callable[[bytes], Asked]
    observer: Callable[[], Observer]
    error_body: Callable[[FungibleError], dict[str, Any]]
    error_event: Callable[[FungibleError, int], bytes]
    last: str = ""
    asks_usage: bool = False


def openai_error_event(error: FungibleError, number: int = 0) -> bytes:
    """An OpenAI error body as one event; no `[DONE]` follows it. Its events have no numbers."""
    del number
    return encode_frame(msgspec.json.encode(error.to_openai()))


def _read_chat(body: bytes) -> Asked:
    request, raw = parse_chat(body)
    return Asked(model=request.model, stream=bool(request.stream), body=raw)


def _read_completion(body: bytes) -> Asked:
    request, raw = parse_completion(body)
    read_prompts(request.prompt)
    return Asked(model=request.model, stream=bool(request.stream), body=raw)


def _read_embedding(body: bytes) -> Asked:
    raw = decode_body(body)
    if raw.get("stream"):
        raise RequestError("embeddings are not streamed", param="stream")
    request = read_fields(raw, EmbeddingRequest)
    check_embedding(request)
    read_inputs(request.input)
    return Asked(model=request.model, stream=False, body=raw)


def _read_messages(body: bytes) -> Asked:
    request, raw = parse_messages(body)
    return Asked(model=request.model, stream=bool(request.stream), body=raw)


def _read_count(body: bytes) -> Asked:
    request, raw = parse_count_tokens(body)
    return Asked(model=request.model, stream=False, body=raw)


def _read_responses(body: bytes) -> Asked:
    request, raw = parse_responses(body)
    return Asked(model=request.model, stream=bool(request.stream), body=raw)


def _openai(
    endpoint: Endpoint, read: Callable[[bytes], Asked], observer: type[Observer], last: str = ""
) -> WireFormat:
    return WireFormat(
        endpoint=endpoint,
        read=read,
        observer=observer,
        error_body=FungibleError.to_openai,
        error_event=openai_error_event if last == "[DONE]" else responses_error_event,
        last=last,
        asks_usage=last == "[DONE]",
    )


def _anthropic(
    endpoint: Endpoint, read: Callable[[bytes], Asked], observer: type[Observer], last: str = ""
) -> WireFormat:
    return WireFormat(
        endpoint=endpoint,
        read=read,
        observer=observer,
        error_body=anthropic_error,
        error_event=anthropic_error_event,
        last=last,
    )


_ALL = (
    _openai("chat/completions", _read_chat, ChatObserver, "[DONE]"),
    _openai("completions", _read_completion, CompletionObserver, "[DONE]"),
    _openai("embeddings", _read_embedding, EmbeddingObserver),
    _openai("responses", _read_responses, ResponseObserver, "response.completed"),
    _anthropic("messages", _read_messages, MessageObserver, "message_stop"),
    _anthropic("messages/count_tokens", _read_count, CountObserver),
    _anthropic("tokenize", _read_count, CountObserver),
)
FORMATS: dict[Endpoint, WireFormat] = {one.endpoint: one for one in _ALL}
