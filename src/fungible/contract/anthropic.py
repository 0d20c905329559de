"""The Anthropic wire format: what a message request must look like, and what answers it.

Requests stay dictionaries on their way to a backend, so fields that we do not know pass
through; the structs only check and read the fields that we act on.
"""

from typing import Annotated, Any, Literal

import msgspec

from fungible.contract.openai import NOT_EMPTY, decode_body, read_fields
from fungible.contract.ranges import MOST_TOKENS, check_ranges, within
from fungible.errors import RequestError

_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """Anthropic's name for an error with this HTTP status (API reference, Errors)."""
    if status in _ERROR_TYPES:
        return _ERROR_TYPES[status]
    return "invalid_request_error" if status < 500 else "api_error"


class Turn(msgspec.Struct, kw_only=True):
    """One turn: text, or blocks such as `{"type": "text", "text": …}`."""

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class CountTokensRequest(msgspec.Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    model: str
    messages: Annotated[list[Turn], NOT_EMPTY]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, within(1, MOST_TOKENS)]
    stream: bool | None = False
    stop_sequences: list[str] | None = None
    temperature: Annotated[float | None, within(0, 1)] = None
    top_p: Annotated[float | None, within(0, 1)] = None
    top_k: Annotated[int | None, within(0, MOST_TOKENS)] = None
    metadata: dict[str, Any] | None = None


class MessageUsage(msgspec.Struct, kw_only=True):
    """Token counts: `input_tokens` are those that no cache knew."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class Message(msgspec.Struct, kw_only=True):
    """A completed message; blocks are `text`, `tool_use` or `thinking`."""

    id: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: MessageUsage
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"
    type: Literal["message"] = "message"


class TokenCount(msgspec.Struct, kw_only=True):
    """Tokens of a prompt, system turn included; tools too, where the backend counts them."""

    input_tokens: int


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong; `type` follows from the HTTP status."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, kw_only=True):
    """The body of an error."""

    error: ErrorDetail
    type: Literal["error"] = "error"


def parse_messages(body: bytes) -> tuple[MessagesRequest, dict[str, Any]]:
    """The checked request and the whole body as a dictionary.

    Raises:
        RequestError: The body is not a JSON object, or a field is malformed; names the field.
    """
    raw = decode_body(body)
    request = read_fields(raw, MessagesRequest)
    _check_turns(request)
    check_ranges(request)
    return request, raw


def parse_count_tokens(body: bytes) -> tuple[CountTokensRequest, dict[str, Any]]:
    """The same for the token counter."""
    raw = decode_body(body)
    request = read_fields(raw, CountTokensRequest)
    _check_turns(request)
    return request, raw


def _check_turns(request: CountTokensRequest) -> None:
    if not request.messages:
        raise RequestError("messages must not be empty", param="messages")
