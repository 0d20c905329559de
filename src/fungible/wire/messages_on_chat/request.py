"""An Anthropic request in the chat format."""

from typing import Any

import msgspec

from fungible.errors import RequestError, UnsupportedError
from fungible.wire.dropping import Dropping, as_object, as_text

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SAME = ("temperature", "top_p", "top_k")
# Translated below, or of no meaning to a backend.
_KNOWN = frozenset(
    {
        *_SAME,
        "model",
        "messages",
        "system",
        "max_tokens",
        "stream",
        "stop_sequences",
        "metadata",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
    }
)
_ESSENTIAL = ("container", "mcp_servers", "context_management")


def chat_request(body: dict[str, Any], dropping: Dropping) -> dict[str, Any]:
    """The body that asks a chat backend for the same; what cannot be said goes to `dropping`.

    Raises:
        RequestError: A field is malformed; names it.
        UnsupportedError: Chat has no way to say something essential.
    """
    for name in _ESSENTIAL:
        if body.get(name):
            raise UnsupportedError(f"{name} works on Anthropic's own servers only", param=name)
    dropping.all_but(body, _KNOWN)
    asked: dict[str, Any] = {"model": body["model"], "messages": _turns(body, dropping)}
    asked |= {name: body[name] for name in _SAME if body.get(name) is not None}
    if body.get("max_tokens") is not None:
        asked["max_completion_tokens"] = body["max_tokens"]
    if body.get("stop_sequences"):
        asked["stop"] = body["stop_sequences"]
    if body.get("stream"):
        asked["stream"] = True
    if user := (body.get("metadata") or {}).get("user_id"):
        asked["user"] = user
    if (body.get("thinking") or {}).get("type", "disabled") != "disabled":
        dropping.add("thinking")
    return asked | _tools(body, dropping) | _output(body, dropping)


def _output(body: dict[str, Any], dropping: Dropping) -> dict[str, Any]:
    config = as_object(body.get("output_config") or {}, "output_config")
    asked: dict[str, Any] = {}
    if form := config.get("format"):
        schema = as_object(form, "output_config.format").get("schema")
        json_schema = {"name": "answer", "schema": schema, "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    if effort := config.get("effort"):
        asked["reasoning_effort"] = effort
    dropping.all_but(config, {"format", "effort"}, "output_config.")
    return asked


def _tools(body: dict[str, Any], dropping: Dropping) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if body.get("tools"):
        asked["tools"] = [_tool(tool, at, dropping) for at, tool in enumerate(body["tools"])]
    if choice := body.get("tool_choice"):
        kind = choice.get("type")
        if kind == "tool":
            name = as_text(choice.get("name"), "tool_choice.name")
            asked["tool_choice"] = {"type": "function", "function": {"name": name}}
        elif kind in _CHOICES:
            asked["tool_choice"] = _CHOICES[kind]
        else:
            raise RequestError(f"tool_choice.type is {kind!r}", param="tool_choice.type")
        if choice.get("disable_parallel_tool_use"):
            asked["parallel_tool_calls"] = False
    return asked


def _tool(tool: dict[str, Any], at: int, dropping: Dropping) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise UnsupportedError(
            f"tools[{at}].type is {tool['type']!r}; such tools run on Anthropic's own servers",
            hint="declare a function with name and input_schema",
            param=f"tools[{at}].type",
        )
    known = ("name", "description", "strict")
    function = {name: tool[name] for name in known if tool.get(name) is not None}
    as_text(function.get("name"), f"tools[{at}].name")
    function["parameters"] = as_object(tool.get("input_schema"), f"tools[{at}].input_schema")
    dropping.all_but(tool, {*known, "type", "input_schema"}, "tools.")
    return {"type": "function", "function": function}


def _turns(body: dict[str, Any], dropping: Dropping) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    if body.get("system"):
        content = _said(body["system"], "system", dropping)
        turns.append({"role": "system", "content": content})
    for at, turn in enumerate(body["messages"]):
        where = f"messages[{at}].content"
        if turn["role"] == "assistant":
            turns.append(_assistant(turn["content"], where, dropping))
        elif turn["role"] == "system":
            content = _said(turn["content"], where, dropping)
            turns.append({"role": "system", "content": content})
        else:
            turns += _user(turn["content"], where, dropping)
    return turns


def _user(content: str | list[dict[str, Any]], where: str, dropping: Dropping) -> list[Any]:
    """Results of tools as turns of their own, before what the user says beside them."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    turns: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for at, block in enumerate(content):
        here = f"{where}[{at}]"
        if block.get("type") == "tool_result":
            turns.append(_result(block, here, dropping))
        else:
            parts.append(_part(block, here, dropping))
    if parts or not turns:
        turns.append({"role": "user", "content": _plain(parts)})
    return turns


def _result(block: dict[str, Any], where: str, dropping: Dropping) -> dict[str, Any]:
    call = as_text(block.get("tool_use_id"), f"{where}.tool_use_id")
    dropping.all_but(block, {"type", "tool_use_id", "content"}, "tool_result.")
    content = _said(block.get("content") or "", f"{where}.content", dropping)
    return {"role": "tool", "tool_call_id": call, "content": content}


def _said(content: object, where: str, dropping: Dropping) -> str | list[dict[str, Any]]:
    """Content that may be text only."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where} is neither text nor blocks", param=where)
    parts = []
    for at, block in enumerate(content):
        here = f"{where}[{at}]"
        if as_object(block, here).get("type") != "text":
            raise UnsupportedError(f"{here}: chat has only text in this place", param=here)
        parts.append(_part(block, here, dropping))
    return _plain(parts)


def _plain(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One text as a string, which every server takes; else the parts."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def _part(block: dict[str, Any], where: str, dropping: Dropping) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        dropping.all_but(block, {"type", "text"}, "content.")
        return {"type": "text", "text": as_text(block.get("text"), f"{where}.text")}
    if kind == "image":
        dropping.all_but(block, {"type", "source"}, "content.")
        source = as_object(block.get("source"), f"{where}.source")
        return {"type": "image_url", "image_url": {"url": _url(source, where)}}
    raise UnsupportedError(f"{where}: chat has no {kind!r} blocks", param=where)


def _url(source: dict[str, Any], where: str) -> str:
    if source.get("type") == "url":
        return as_text(source.get("url"), f"{where}.source.url")
    if source.get("type") == "base64":
        media_type = as_text(source.get("media_type"), f"{where}.source.media_type")
        return f"data:{media_type};base64,{as_text(source.get('data'), f'{where}.source.data')}"
    raise UnsupportedError(
        f"{where}.source: only base64 and url leave Anthropic's servers", param=f"{where}.source"
    )


def _assistant(
    content: str | list[dict[str, Any]], where: str, dropping: Dropping
) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for at, block in enumerate(content):
        here = f"{where}[{at}]"
        if block.get("type") in ("thinking", "redacted_thinking"):
            dropping.add("content.thinking")
        elif block.get("type") == "tool_use":
            calls.append(_call(block, here))
        else:
            parts.append(_part(block, here, dropping))
    turn: dict[str, Any] = {"role": "assistant", "content": _plain(parts) or None}
    return turn | ({"tool_calls": calls} if calls else {"content": _plain(parts)})


def _call(block: dict[str, Any], where: str) -> dict[str, Any]:
    arguments = msgspec.json.encode(as_object(block.get("input"), f"{where}.input")).decode()
    function = {"name": as_text(block.get("name"), f"{where}.name"), "arguments": arguments}
    return {"id": as_text(block.get("id"), f"{where}.id"), "type": "function", "function": function}
