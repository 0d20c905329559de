"""The OpenAI wire format: what a chat request must look like, and the chunks that answer it.

Requests stay dictionaries on their way to a backend, so fields that we do not know pass
through; `ChatRequest` only checks and reads the fields that we act on.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from fungible.contract.ranges import MOST_TOKENS, check_ranges, within
from fungible.errors import RequestError

_Fields = TypeVar("_Fields")


class ChatMessage(msgspec.Struct, kw_only=True):
    """One turn. Content is text, or parts such as `{"type": "text", "text": …}`.

    `tool_calls` are what an assistant asked for, `tool_call_id` is what a tool answers.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """The turn's text; parts that are not text are left out."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        return "".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")


# The OpenAI API's own limit of `n`.
MOST_ANSWERS = 128
NOT_EMPTY = msgspec.Meta(extra_json_schema={"minItems": 1})  # said here, checked by name below


class ChatRequest(msgspec.Struct, kw_only=True):
    """The fields of `POST /v1/chat/completions` that Fungible's own engine acts on."""

    model: str
    messages: Annotated[list[ChatMessage], NOT_EMPTY]
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    max_tokens: Annotated[int | None, within(1, MOST_TOKENS)] = None
    max_completion_tokens: Annotated[int | None, within(1, MOST_TOKENS)] = None
    temperature: Annotated[float | None, within(0.0, 2.0)] = None
    top_p: Annotated[float | None, within(0.0, 1.0)] = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int | None, within(1, MOST_ANSWERS)] = 1
    logprobs: bool | None = False
    top_logprobs: Annotated[int | None, within(0, 20)] = None
    user: str | None = None
    metadata: dict[str, str] | None = None


def decode_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request body.

    Raises:
        RequestError: The body is not a JSON object.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise RequestError(f"request body: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"request body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise RequestError("request body is nested too deeply") from error


def read_fields(raw: object, kind: type[_Fields]) -> _Fields:
    """The fields of a decoded body that `kind` declares; others are left alone.

    Raises:
        RequestError: A field is missing or has the wrong type; names the field.
    """
    try:
        return msgspec.convert(raw, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise RequestError(f"request body: {error}", param=_field_at_fault(str(error))) from error
    except RecursionError as error:
        raise RequestError("request body is nested too deeply") from error


def _field_at_fault(text: str) -> str | None:
    """The field that msgspec complains about, such as `messages[0].content`."""
    path = text.rsplit("`$.", 1)[-1].rstrip("`").removesuffix("[...]") if "`$." in text else ""
    missing = re.search(r"missing required field `(\w+)`", text)
    return ".".join(filter(None, (path, missing and missing[1]))) or None


def parse_chat(body: bytes) -> tuple[ChatRequest, dict[str, Any]]:
    """The checked request and the whole body as a dictionary.

    Raises:
        RequestError: The body is not JSON, or a field has the wrong type; names the field.
    """
    raw = decode_body(body)
    request = read_fields(raw, ChatRequest)
    if not request.messages:
        raise RequestError("messages must not be empty", param="messages")
    check_ranges(request)
    return request, raw


class FunctionDelta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A function's name in the first chunk of its call; its arguments' JSON in pieces."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one chunk adds to the call number `index`; only the first chunk has id and type."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one chunk adds."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class TopLogprob(msgspec.Struct, kw_only=True):
    """One alternative token: natural-log probability and its UTF-8 bytes."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob, kw_only=True):
    """One emitted token with its alternatives, most likely first."""

    top_logprobs: list[TopLogprob] = []


class ChoiceLogprobs(msgspec.Struct, kw_only=True):
    """Log-probabilities of the tokens of one choice or chunk."""

    content: list[TokenLogprob]


class PromptTokensDetails(msgspec.Struct, kw_only=True):
    """Prompt tokens whose keys and values were there already, from an earlier prompt."""

    cached_tokens: int


class UsageBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The OpenAI `usage` object."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class ChunkChoice(msgspec.Struct, kw_only=True):
    """One choice of a streamed chunk."""

    index: int = 0
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct, kw_only=True):
    """`chat.completion.chunk`."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: str = "chat.completion.chunk"
    usage: UsageBody | None = None


class FunctionCall(msgspec.Struct, kw_only=True):
    """A function to call; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, kw_only=True):
    """One call that an answer asks for."""

    id: str
    function: FunctionCall
    type: str = "function"


class AssistantMessage(msgspec.Struct, kw_only=True):
    """The answer of a completed choice; `content` may be missing where there are calls."""

    content: str | None
    role: str = "assistant"
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class Choice(msgspec.Struct, kw_only=True):
    """One choice of a completed answer."""

    message: AssistantMessage
    index: int = 0
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct, kw_only=True):
    """`chat.completion`."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: UsageBody
    object: str = "chat.completion"


class OpenAIErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong; `param` is the request's field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct, kw_only=True):
    """The body of an error, as `FungibleError.to_openai` writes it."""

    error: OpenAIErrorDetail


class ModelCard(msgspec.Struct, kw_only=True):
    """One entry of `GET /v1/models`."""

    id: str
    created: int
    owned_by: str = "fungible"
    object: str = "model"


class ModelList(msgspec.Struct, kw_only=True):
    """`GET /v1/models`."""

    data: list[ModelCard]
    object: str = "list"
