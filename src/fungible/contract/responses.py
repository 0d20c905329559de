"""The wire format of OpenAI's Responses: what a request must look like, and what answers it.

Requests stay dictionaries on their way to a backend, so fields that we do not know pass
through; `ResponsesRequest` only checks and reads the fields that we act on.
"""

from typing import Annotated, Any, Literal

import msgspec

from fungible.contract.openai import decode_body, read_fields
from fungible.contract.ranges import MOST_TOKENS, check_ranges, within
from fungible.errors import RequestError


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """`POST /v1/responses`.

    Attributes:
        input: A text, or items: messages, function calls and their outputs.
    """

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = False
    max_output_tokens: Annotated[int | None, within(1, MOST_TOKENS)] = None
    temperature: Annotated[float | None, within(0, 2)] = None
    top_p: Annotated[float | None, within(0, 1)] = None
    top_logprobs: Annotated[int | None, within(0, 20)] = None
    parallel_tool_calls: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None


class InputDetails(msgspec.Struct, kw_only=True):
    """Input tokens that were read from a cache or written to it."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, kw_only=True):
    """Output tokens that are thought, not said."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, kw_only=True):
    """Token counts; the details are part of the totals."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Response(msgspec.Struct, kw_only=True):
    """A response; items are `message`, `function_call` or `reasoning`.

    Attributes:
        output: Items in the order in which they were made.
        incomplete_details: Why it stopped short, as `{"reason": "max_output_tokens"}`.
    """

    id: str
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    output: list[dict[str, Any]]
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    usage: ResponseUsage | None = None
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    previous_response_id: None = None
    store: bool = False
    object: Literal["response"] = "response"


def parse_responses(body: bytes) -> tuple[ResponsesRequest, dict[str, Any]]:
    """The checked request and the whole body as a dictionary.

    Raises:
        RequestError: The body is not a JSON object, or a field is malformed; names the field.
    """
    raw = decode_body(body)
    request = read_fields(raw, ResponsesRequest)
    if not request.input:
        raise RequestError("input must not be empty", param="input")
    check_ranges(request)
    return request, raw
