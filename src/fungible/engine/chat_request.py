"""What a chat request asks for: its format and tools, as a grammar and a parser."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fungible.contract.openai import ChatRequest, read_fields
from fungible.engine.grammar import (
    ANY_OBJECT,
    GrammarSource,
    choice_grammar,
    lark_grammar,
    regex_grammar,
    schema_grammar,
)
from fungible.engine.tool_calls import ToolFormat
from fungible.engine.tool_grammar import call_grammar
from fungible.errors import RequestError, UnsupportedError

# Fields that would change the answer if we honoured them, and the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "prediction": (),
    "audio": (),
    "prompt_logprobs": (),
    "web_search_options": (),
}
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


class _Function(msgspec.Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, kw_only=True):
    function: _Function
    type: Literal["function"] = "function"


class _Fields(msgspec.Struct, kw_only=True):
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a request.

    Attributes:
        tools: Those that the answer may call, in OpenAI's form; none turns calls off.
        forced: Whether the answer must be a call.
        constrained: Whether calls must be valid against their schemas.
        parallel: Whether there may be more than one call.
    """

    tools: tuple[dict[str, Any], ...] = ()
    forced: bool = False
    constrained: bool = False
    parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        """Functions that may be called."""
        return frozenset(one["function"]["name"] for one in self.tools)


class AnswerForm(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer may be.

    Attributes:
        use: Its tools.
        grammar: What its text must match; `None` allows any.
    """

    use: ToolUse
    grammar: GrammarSource | None


def check_supported(chat: ChatRequest, raw: Mapping[str, Any]) -> None:
    """Refuse fields that would be silently ignored, and combinations that mean nothing.

    Raises:
        RequestError: Names the field.
        UnsupportedError: Names the field.
    """
    for name, neutral in _NEUTRAL.items():
        value = raw.get(name)
        if value is not None and value not in neutral:
            raise UnsupportedError(
                f"{name} is not supported by this engine", hint=f"leave {name} out", param=name
            )
    if chat.top_logprobs and not chat.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    if chat.stream_options is not None and not chat.stream:
        raise RequestError("stream_options needs stream to be true", param="stream_options")


def form_from(raw: Mapping[str, Any], kind: ToolFormat) -> AnswerForm:
    """Read tools and formats out of a decoded body.

    Raises:
        RequestError: A field is malformed, or two of them contradict each other.
        UnsupportedError: A kind of format that this engine does not know.
    """
    fields = read_fields(raw, _Fields)
    use = _tool_use(fields, raw)
    grammar = _grammar(fields, raw)
    if not use.constrained:
        return AnswerForm(use=use, grammar=grammar)
    if grammar is not None:
        raise RequestError(
            f"{grammar.param} and calls that must be valid exclude each other",
            hint="leave one of them out",
            param=grammar.param,
        )
    calls = call_grammar(use.tools, kind, parallel=use.parallel, forced=use.forced)
    return AnswerForm(use=use, grammar=calls)


def _tool_use(fields: _Fields, raw: Mapping[str, Any]) -> ToolUse:
    tools: tuple[dict[str, Any], ...] = tuple(raw.get("tools") or ())
    choice = fields.tool_choice if fields.tool_choice is not None else "auto"
    parallel = fields.parallel_tool_calls is not False
    if not tools:
        if choice not in ("auto", "none"):
            raise RequestError("tool_choice needs tools", param="tool_choice")
        return ToolUse()
    if isinstance(choice, dict):
        named = _named(choice, tools)
        return ToolUse(tools=(named,), forced=True, constrained=True, parallel=False)
    if choice == "none":
        return ToolUse()
    if choice not in ("auto", "required"):
        raise RequestError(
            f"tool_choice is {choice!r}; it must be none, auto, required or a named function",
            param="tool_choice",
        )
    forced = choice == "required"
    strict = any(one.function.strict for one in fields.tools or ())
    return ToolUse(tools=tools, forced=forced, constrained=forced or strict, parallel=parallel)


def _named(choice: Mapping[str, Any], tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    for one in tools:
        if one["function"]["name"] == name:
            return one
    raise RequestError(f"tool_choice names {name!r}, which is not in tools", param="tool_choice")


def _grammar(fields: _Fields, raw: Mapping[str, Any]) -> GrammarSource | None:
    asked = [_response_format(fields.response_format)]
    if fields.structured_outputs:
        asked.append(_structured(fields.structured_outputs, "structured_outputs."))
    asked += [
        _structured({kind: raw[name]}, "", name)
        for name, kind in _GUIDED.items()
        if raw.get(name) is not None
    ]
    found = [one for one in asked if one is not None]
    if len(found) > 1:
        raise RequestError(
            f"{found[0].param} and {found[1].param} exclude each other",
            hint="leave one of them out",
            param=found[1].param,
        )
    return found[0] if found else None


def _response_format(asked: Mapping[str, Any] | None) -> GrammarSource | None:
    kind = (asked or {}).get("type", "text") if asked is not None else "text"
    if asked is None or kind == "text":
        return None
    if kind == "json_object":
        return schema_grammar(ANY_OBJECT, "response_format")
    if kind != "json_schema":
        raise UnsupportedError(
            f"response_format.type is {kind!r}; this engine knows text, json_object, json_schema",
            param="response_format.type",
        )
    where = "response_format.json_schema.schema"
    named = asked.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return _json(schema, where)


def _structured(
    asked: Mapping[str, Any], prefix: str, name: str | None = None
) -> GrammarSource | None:
    given = {key: value for key, value in asked.items() if value is not None}
    if len(given) != 1:
        raise RequestError(
            "structured_outputs must have one of json, regex, choice, grammar, json_object",
            param="structured_outputs",
        )
    ((kind, value),) = given.items()
    where = name or prefix + kind
    if kind == "json":
        return _json(value, where)
    if kind == "json_object" and value is True:
        return schema_grammar(ANY_OBJECT, where)
    if kind == "regex" and isinstance(value, str):
        return regex_grammar(value, where)
    if kind == "grammar" and isinstance(value, str):
        return lark_grammar(value, where)
    texts = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
    if kind == "choice" and texts:
        return choice_grammar(value, where)
    if kind in ("regex", "grammar", "choice", "json_object"):
        raise RequestError(f"{where} has the wrong type", param=where)
    raise UnsupportedError(f"{where} is not supported by this engine", param=where)


def _json(schema: object, where: str) -> GrammarSource:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise RequestError(f"{where} is not JSON: {error}", param=where) from error
    if not isinstance(schema, dict | bool):
        raise RequestError(f"{where} must be a JSON schema", param=where)
    return schema_grammar(schema, where)
