"""What a chat request asks for: its format and tools, as a grammar and a parser."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from fungible.contract.openai import ChatRequest, read_fields
from fungible.engine.grammar import GrammarSource, schema_grammar
from fungible.engine.grammar_fields import grammar_from
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
    grammar = grammar_from(raw)
    if not use.constrained:
        return AnswerForm(use=use, grammar=grammar)
    if grammar is not None:
        raise RequestError(
            f"{grammar.param} and calls that must be valid exclude each other",
            hint="leave one of them out",
            param=grammar.param,
        )
    calls = call_grammar(use.tools, kind, parallel=use.parallel, forced=use.forced)
    blamed = _parameters(use, raw["tools"])
    return AnswerForm(use=use, grammar=msgspec.structs.replace(calls, parts=blamed))


def _parameters(use: ToolUse, tools: Sequence[Mapping[str, Any]]) -> tuple[GrammarSource, ...]:
    """The schema of each tool by itself, so that a bad one can be named by its place."""
    return tuple(
        schema_grammar(schema, f"tools[{at}].function.parameters")
        for at, tool in enumerate(tools)
        if tool in use.tools and (schema := tool["function"].get("parameters")) is not None
    )


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
