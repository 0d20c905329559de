"""The OpenAI wire format of `POST /v1/completions`, the endpoint without a conversation."""

from typing import Annotated, Any

import msgspec

from fungible.contract.openai import UsageBody, decode_body, read_fields
from fungible.contract.ranges import MOST_TOKENS, check_ranges, within
from fungible.errors import RequestError

DEFAULT_MAX_TOKENS = 16
_FORMS = "a string, a list of strings, a list of token ids, or a list of such lists"
TEXTS_OR_TOKENS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "items": {"type": "integer"}},
        {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
        },
    ]
}


class CompletionRequest(msgspec.Struct, kw_only=True):
    """The fields that belong to this endpoint alone; both share the sampling fields.

    Attributes:
        prompt: What `read_prompts` takes apart.
        max_tokens: Most tokens of each answer; 0, with `echo`, only scores the prompt.
        best_of: Accepted only when it asks for nothing beyond `n`.
        logprobs: Alternatives to report for each token.
        echo: Whether each answer's text starts with its prompt.
    """

    model: str
    prompt: Annotated[Any, msgspec.Meta(extra_json_schema=TEXTS_OR_TOKENS)]
    max_tokens: Annotated[int | None, within(0, MOST_TOKENS)] = None
    best_of: int | None = None
    logprobs: Annotated[int | None, within(0, 20)] = None
    echo: bool | None = False
    suffix: str | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    user: str | None = None


class CompletionLogprobs(msgspec.Struct, kw_only=True):
    r"""Log-probabilities of a choice's tokens, column by column.

    Attributes:
        tokens: Each token's text; `bytes:\xNN…` where it is no whole text by itself.
        token_logprobs: `None` for the first token of a prompt, which follows nothing.
        top_logprobs: The likeliest tokens and the token itself; `None` when none were asked for.
        text_offset: Where each token starts in the choice's text, in characters.
    """

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] = []


class PromptLogprob(msgspec.Struct, kw_only=True):
    """vLLM's form of one token at one place of a prompt; rank 1 is the likeliest."""

    logprob: float
    rank: int | None
    decoded_token: str


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One answer, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class ScoredChoice(CompletionChoice, kw_only=True):
    """One answer with vLLM's `prompt_logprobs`: for each prompt token, entries by token id."""

    prompt_logprobs: list[dict[int, PromptLogprob] | None]


class Completion(msgspec.Struct, kw_only=True):
    """`text_completion`, whole or one chunk of a stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    usage: UsageBody | None = None


def parse_completion(body: bytes) -> tuple[CompletionRequest, dict[str, Any]]:
    """The checked request and the whole body as a dictionary.

    Raises:
        RequestError: The body is not a JSON object, or a field is malformed; names the field.
    """
    raw = decode_body(body)
    request = read_fields(raw, CompletionRequest)
    check_ranges(request)
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream to be true", param="stream_options")
    return request, raw


def read_prompts(value: object) -> list[str | list[int]]:
    """The prompts of a request, each as text or as token ids.

    Raises:
        RequestError: `value` has none of the four forms, or an empty list in it.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise RequestError(f"prompt must be {_FORMS}, and not empty", param="prompt")
    if _is_tokens(value):
        return [value]
    text = isinstance(value[0], str)
    for at, one in enumerate(value):
        if text and isinstance(one, str):
            continue
        if text or not _is_tokens(one):
            raise RequestError(f"prompt[{at}]: prompt must be {_FORMS}", param=f"prompt[{at}]")
    return value


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)
