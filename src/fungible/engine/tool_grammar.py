"""Grammars of calls: the arguments of every call are valid against its function's schema."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fungible.engine.grammar import JSON_OPTIONS, GrammarSource, lark_grammar
from fungible.engine.tool_calls import CLOSE, OPEN, ToolFormat

_TEXT = r"/(.|\n)*/"


def call_grammar(
    tools: Sequence[Mapping[str, Any]], kind: ToolFormat, *, parallel: bool, forced: bool
) -> GrammarSource:
    """What an answer with calls looks like.

    Args:
        tools: In OpenAI's form; each may be called.
        kind: How the model writes calls.
        parallel: Whether there may be more than one call.
        forced: Whether the answer must be calls; else text may stand in their place.
    """
    functions = [one["function"] for one in tools]
    arguments = "parameters" if kind is ToolFormat.LLAMA else "arguments"
    bodies = [
        f"body_{at}: %json {json.dumps(_schema(one, arguments))}"
        for at, one in enumerate(functions)
    ]
    body = "body: " + " | ".join(f"body_{at}" for at in range(len(functions)))
    rules = _RULES[kind](parallel, forced)
    return lark_grammar("\n".join([*rules, body, *bodies]), "tools")


def _schema(function: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, arguments: parameters},
        "required": ["name", arguments],
        "additionalProperties": False,
        "x-guidance": JSON_OPTIONS,
    } | {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}


def _hermes(parallel: bool, forced: bool) -> list[str]:
    if forced:
        more = r' ("\n" call)*' if parallel else ""
        return [
            f"start: call{more}",
            f'call: "{OPEN}\\n" body "\\n{CLOSE}"',
        ]
    count = "*" if parallel else "?"
    return [
        f"start: call{count} TEXT",
        f'call: begin "\\n" body "\\n{CLOSE}"',
        f'begin[lazy]: TEXT "{OPEN}"',
        f"TEXT: {_TEXT}",
    ]


def _llama(parallel: bool, forced: bool) -> list[str]:
    more = ' (";" body)*' if parallel else ""
    return _whole(f"body{more}", r"[^{\s<]", forced)


def _mistral(parallel: bool, forced: bool) -> list[str]:
    more = ' ("," body)*' if parallel else ""
    return _whole(f'"[" body{more} "]"', r"[^\[\s]", forced)


def _whole(calls: str, first: str, forced: bool) -> list[str]:
    if forced:
        return [f"start: {calls}"]
    return ["start: calls | TEXT", f"calls: {calls}", f"TEXT: /{first}(.|\\n)*/"]


_RULES = {
    ToolFormat.HERMES: _hermes,
    ToolFormat.LLAMA: _llama,
    ToolFormat.MISTRAL: _mistral,
}
