"""The wire format of `/v1/embeddings`: what a request must look like, and what answers it."""

from typing import Annotated, Any, Literal

import msgspec

from fungible.contract.completions import TEXTS_OR_TOKENS
from fungible.contract.openai import decode_body, read_fields
from fungible.contract.ranges import at_least
from fungible.errors import RequestError

MOST_INPUTS = 2048  # OpenAI's own limit
_FORMS = "a string, a list of strings, a list of token ids, or a list of such lists"


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """The fields that we act on.

    Attributes:
        input: What `read_inputs` takes apart.
        encoding_format: `base64` is of little-endian float32.
        dimensions: Accepted only when it is the model's own.
        truncate_prompt_tokens: vLLM's: inputs are cut to so many tokens; -1 for the most that
            the model takes.
    """

    model: str
    input: Annotated[Any, msgspec.Meta(extra_json_schema=TEXTS_OR_TOKENS)]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int | None, at_least(1)] = None
    truncate_prompt_tokens: Annotated[int | None, at_least(-1)] = None
    user: str | None = None


class EmbeddingItem(msgspec.Struct, kw_only=True):
    """The embedding of the input at `index`: numbers, or their bytes in base64."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct, kw_only=True):
    """Tokens of all inputs, start and end tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, kw_only=True):
    """The answer, in the order of the inputs."""

    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """The checked request.

    Raises:
        RequestError: The body is not a JSON object, or a field is malformed; names the field.
    """
    request = read_fields(decode_body(body), EmbeddingRequest)
    check_embedding(request)
    return request


def check_embedding(request: EmbeddingRequest) -> None:
    """Raise `RequestError` where a number is out of its range; names the field."""
    if request.dimensions is not None and request.dimensions < 1:
        raise RequestError(
            f"dimensions is {request.dimensions}; it must be positive", param="dimensions"
        )
    cut = request.truncate_prompt_tokens
    if cut is not None and cut != -1 and cut < 1:
        raise RequestError(
            f"truncate_prompt_tokens is {cut}; it must be positive, or -1",
            param="truncate_prompt_tokens",
        )


def read_inputs(value: object) -> list[str] | list[list[int]]:
    """The inputs of a request, all texts or all token ids.

    Raises:
        RequestError: `value` has none of the four forms, something in it is empty, or there
            are more than `MOST_INPUTS`.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise RequestError(f"input must be {_FORMS}, and not empty", param="input")
    if type(value[0]) is int:
        value = [value]
    if len(value) > MOST_INPUTS:
        raise RequestError(
            f"input has {len(value)} entries; one request may have {MOST_INPUTS}",
            hint="send several requests",
            param="input",
        )
    text = isinstance(value[0], str)
    for at, one in enumerate(value):
        if not (isinstance(one, str) if text else _is_tokens(one)):
            raise RequestError(f"input[{at}]: input must be {_FORMS}", param=f"input[{at}]")
        if not one:
            raise RequestError(f"input[{at}] is empty", param=f"input[{at}]")
    return value


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)
