"""A chat request read for translation into a vendor's own format (OpenAI API reference)."""

import re
from typing import Any, Literal

import msgspec

from fungible.contract.openai import ChatMessage, read_fields
from fungible.errors import RequestError, UnsupportedError

# Fields of a chat request that say how it is asked, not what: nothing to translate.
CARRIED = frozenset(
    {"model", "stream", "stream_options", "metadata", "user", "safety_identifier", "store"}
)
# What else the OpenAI API and the common servers know.
FIELDS = CARRIED | {
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "min_p",
    "modalities",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "verbosity",
    "web_search_options",
}

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*;base64,(.*)", re.DOTALL)


class Function(msgspec.Struct, kw_only=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, kw_only=True):
    """One of `tools`; only functions can be translated."""

    type: str = "function"
    function: Function | None = None


class JSONSchema(msgspec.Struct, kw_only=True):
    """The schema that an answer must keep to."""

    name: str = "answer"
    description: str | None = None
    schema: dict[str, Any] = {}
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True):
    """Text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JSONSchema | None = None


class ChatFields(msgspec.Struct, kw_only=True):
    """What adapters translate of a chat request; see `FIELDS` for all there is."""

    messages: list[ChatMessage]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    service_tier: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """The limit on the answer, by its new or its old name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def functions(self) -> list[Function]:
        """What `tools` declares.

        Raises:
            UnsupportedError: One is not a function.
        """
        found = []
        for at, tool in enumerate(self.tools or ()):
            if tool.function is None:
                raise UnsupportedError(
                    f"tools[{at}] is of type {tool.type!r}; this backend has functions only",
                    param=f"tools[{at}]",
                )
            found.append(tool.function)
        return found

    def chosen_function(self) -> str | None:
        """The name in a `tool_choice` that asks for one function.

        Raises:
            RequestError: It is an object that names none.
        """
        if not isinstance(self.tool_choice, dict):
            return None
        name = (self.tool_choice.get("function") or {}).get("name")
        if not isinstance(name, str):
            raise RequestError("tool_choice names no function", param="tool_choice")
        return name


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a turn: text, or data with its media type, in base64 or by address.

    Attributes:
        cached: The prompt up to here is worth caching; the time to keep it, or empty.
    """

    text: str = ""
    media_type: str = ""
    data: str = ""
    url: str = ""
    name: str = ""
    cached: str | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A function call of an earlier answer; `arguments` is decoded."""

    id: str
    name: str
    arguments: dict[str, Any]


def read_chat(body: dict[str, Any]) -> ChatFields:
    """The fields that adapters translate.

    Raises:
        RequestError: One has the wrong type; names it.
        UnsupportedError: Several answers are asked for.
    """
    fields = read_fields(body, ChatFields)
    if (fields.n or 1) > 1:
        raise UnsupportedError("n: this backend gives one answer at a time", param="n")
    return fields


def parts_of_turn(turn: ChatMessage, at: int) -> list[Part]:
    """The content of turn number `at`, empty texts left out.

    Raises:
        RequestError: A part is malformed.
        UnsupportedError: A part is of a kind that has no translation.
    """
    if turn.content is None or isinstance(turn.content, str):
        return [Part(text=turn.content)] if turn.content else []
    found = [
        _part(part, f"messages[{at}].content[{number}]") for number, part in enumerate(turn.content)
    ]
    return [part for part in found if part.text or part.data or part.url]


def _part(part: dict[str, Any], where: str) -> Part:
    kind, cached = part.get("type"), _cached(part)
    try:
        if kind in ("text", "refusal"):
            return Part(text=str(part[kind]), cached=cached)
        if kind == "image_url":
            image = part["image_url"]
            url = image["url"] if isinstance(image, dict) else image
            return _by_url(str(url), "image/*", where, cached)
        if kind == "input_audio":
            audio = part["input_audio"]
            media_type = f"audio/{audio['format']}"
            return Part(media_type=media_type, data=str(audio["data"]), cached=cached)
        if kind == "file":
            file = part["file"]
            found = _by_url(str(file["file_data"]), "application/pdf", where, cached)
            return msgspec.structs.replace(found, name=str(file.get("filename") or "file"))
    except (KeyError, TypeError) as error:
        raise RequestError(f"{where} is malformed: {error!r}", param=where) from error
    raise UnsupportedError(f"{where}: this backend has no {kind!r} parts", param=where)


def _by_url(url: str, media_type: str, where: str, cached: str | None) -> Part:
    if not url.startswith("data:"):
        return Part(media_type=media_type, url=url, cached=cached)
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise RequestError(f"{where} is not a base64 data URL", param=where)
    return Part(media_type=found[1] or media_type, data=found[2], cached=cached)


def _cached(part: dict[str, Any]) -> str | None:
    """Anthropic's mark or OpenAI's: the prompt up to here is worth caching."""
    mark = part.get("cache_control") or part.get("prompt_cache_breakpoint")
    return str(mark.get("ttl") or "") if isinstance(mark, dict) else None


def calls_of_turn(turn: ChatMessage, at: int) -> list[Call]:
    """The function calls of an assistant's turn.

    Raises:
        RequestError: One is malformed, or its arguments are no JSON object.
    """
    found = []
    for number, call in enumerate(turn.tool_calls or ()):
        where = f"messages[{at}].tool_calls[{number}]"
        try:
            function = call["function"]
            arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
            found.append(Call(id=str(call["id"]), name=str(function["name"]), arguments=arguments))
        except (KeyError, TypeError, AttributeError, msgspec.DecodeError) as error:
            raise RequestError(f"{where} is malformed: {error!r}", param=where) from error
    return found
