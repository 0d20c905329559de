"""A chat request in Anthropic's format."""

from typing import Any

from fungible.contract.openai import ChatMessage
from fungible.errors import RequestError, UnsupportedError
from fungible.wire.chat_reading import (
    CARRIED,
    ChatFields,
    Part,
    calls_of_turn,
    parts_of_turn,
    read_chat,
)
from fungible.wire.dropping import Dropping

Block = dict[str, Any]

# Anthropic demands a limit where chat need not name one.
DEFAULT_MAX_TOKENS = 4096
_TRANSLATED = CARRIED | {
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "logprobs",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
}
# These change what an answer is, so that leaving them out would give another answer.
_REFUSED = ("functions", "function_call", "audio", "prediction", "web_search_options")
_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})


def messages_request(body: dict[str, Any], dropping: Dropping) -> Block:
    """The body that asks an Anthropic backend for the same; `dropping` gets what is left out.

    Raises:
        RequestError: A field is malformed; names it.
        UnsupportedError: Anthropic has no way to say something that the answer depends on.
    """
    chat = read_chat(body)
    _refuse(chat, body)
    dropping.all_but(body, _TRANSLATED)
    system, turns = _turns(chat.messages)
    asked: Block = {
        "model": body["model"],
        "max_tokens": chat.most_tokens or DEFAULT_MAX_TOKENS,
        "messages": turns,
        "system": system,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "top_k": chat.top_k,
        "stop_sequences": chat.stops,
        "stream": body.get("stream") or None,
        "tools": _tools(chat),
        "tool_choice": _choice(chat, body),
        "output_config": _output(chat, dropping),
        "metadata": {"user_id": body["user"]} if body.get("user") else None,
    }
    return {name: value for name, value in asked.items() if value not in (None, [], {})}


def _refuse(chat: ChatFields, body: dict[str, Any]) -> None:
    for name in _REFUSED:
        if body.get(name):
            raise UnsupportedError(f"{name}: Anthropic's format has no such field", param=name)
    if chat.logprobs or chat.top_logprobs:
        raise UnsupportedError("logprobs: Anthropic's format reports none", param="logprobs")
    if chat.temperature is not None and chat.temperature > 1:
        raise UnsupportedError(
            f"temperature is {chat.temperature}; Anthropic's format takes 0 to 1",
            param="temperature",
        )


def _turns(messages: list[ChatMessage]) -> tuple[list[Block], list[Block]]:
    """System blocks before the first turn, and turns; neighbours of one role are joined.

    Results of tools go first in their turn, directly after the calls, as Anthropic demands.
    """
    system: list[Block] = []
    turns: list[Block] = []
    for at, message in enumerate(messages):
        blocks = [_block(part, at) for part in parts_of_turn(message, at)]
        role: str = message.role
        if role in ("system", "developer"):
            role = "system"
            if not turns:
                system += blocks
                continue
        elif role == "tool":
            role, blocks = "user", [_result(message, blocks, at)]
        for call in calls_of_turn(message, at):
            use = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            blocks.append(use)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _result(message: ChatMessage, blocks: list[Block], at: int) -> Block:
    if not message.tool_call_id:
        where = f"messages[{at}].tool_call_id"
        raise RequestError(f"{where} is missing", param=where)
    return {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": blocks}


def _block(part: Part, at: int) -> Block:
    block = {"type": "text", "text": part.text} if part.text else _media(part, at)
    if part.cached is None:
        return block
    lasting = {"ttl": part.cached} if part.cached in ("5m", "1h") else {}
    return block | {"cache_control": {"type": "ephemeral"} | lasting}


def _media(part: Part, at: int) -> Block:
    where = f"messages[{at}].content"
    kind = {"image": "image", "application": "document"}.get(part.media_type.partition("/")[0])
    if kind is None or (kind == "document" and part.media_type != "application/pdf"):
        raise UnsupportedError(f"{where}: Anthropic takes no {part.media_type}", param=where)
    if part.url:
        return {"type": kind, "source": {"type": "url", "url": part.url}}
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    return {"type": kind, "source": source}


def _tools(chat: ChatFields) -> list[Block]:
    tools = []
    for function in chat.functions():
        empty: Block = {"type": "object", "properties": {}}
        tool: Block = {"name": function.name, "input_schema": function.parameters or empty}
        if function.description:
            tool["description"] = function.description
        if function.strict is not None:
            tool["strict"] = function.strict
        tools.append(tool)
    return tools


def _choice(chat: ChatFields, body: dict[str, Any]) -> Block | None:
    if not chat.tools:
        return None
    asked = chat.tool_choice
    if (name := chat.chosen_function()) is not None:
        choice: Block = {"type": "tool", "name": name}
    elif asked in ("none", "required"):
        choice = {"type": "none" if asked == "none" else "any"}
    elif asked in (None, "auto"):
        choice = {"type": "auto"}
    else:
        raise RequestError(f"tool_choice is {asked!r}", param="tool_choice")
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        return choice | {"disable_parallel_tool_use": True}
    return choice if asked is not None else None


def _output(chat: ChatFields, dropping: Dropping) -> Block:
    config: Block = {}
    form = chat.response_format
    if form is not None and form.type == "json_object":
        raise UnsupportedError(
            "response_format: Anthropic's format has no JSON mode without a schema",
            hint='use {"type": "json_schema", …}',
            param="response_format",
        )
    if form is not None and form.json_schema is not None:
        config["format"] = {"type": "json_schema", "schema": form.json_schema.schema}
    if chat.reasoning_effort in _EFFORTS:
        config["effort"] = chat.reasoning_effort
    elif chat.reasoning_effort:
        dropping.add("reasoning_effort")
    return config
