"""How tools and their calls look in a prompt.

A chat template that knows tools renders them itself. For one that does not, they are told in
the system prompt and called by `<tool_call>` blocks, as the Hermes models introduced it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fungible.contract.openai import ChatMessage
from fungible.errors import RequestError

Turn = dict[str, Any]
_INTRODUCTION = """\
You may call functions to answer the user. These are their signatures, in <tools></tools>:
<tools>
{tools}
</tools>
For each call, write a JSON object with the function's name and its arguments:
<tool_call>
{{"name": <function name>, "arguments": <arguments as a JSON object>}}
</tool_call>"""


def turns(messages: Sequence[ChatMessage]) -> list[Turn]:
    """Messages as templates expect them: a call's arguments are an object, not text.

    OpenAI's `developer` role is its newer name for `system`; templates know only the latter.

    Raises:
        RequestError: A call has no function, or its arguments are not a JSON object.
    """
    made: list[Turn] = []
    for at, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        turn: Turn = {"role": role, "content": message.text()}
        if message.name is not None:
            turn["name"] = message.name
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            turn["tool_calls"] = [
                _call(one, f"messages[{at}].tool_calls[{number}]")
                for number, one in enumerate(message.tool_calls)
            ]
        made.append(turn)
    return made


def spelled_out(made: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The same turns for a template that knows no tools.

    Calls become text of the assistant, their results turns of the user, and `tools` a part of
    the system prompt.
    """
    plain = [_plain(turn) for turn in made]
    if not tools:
        return plain
    told = _INTRODUCTION.format(tools="\n".join(json.dumps(one) for one in tools))
    if plain[0]["role"] == "system":
        system = plain.pop(0)["content"]
        told = f"{system}\n\n{told}" if system else told
    return [{"role": "system", "content": told}, *plain]


def _plain(turn: Turn) -> Turn:
    if turn["role"] == "tool":
        return {
            "role": "user",
            "content": f"<tool_response>\n{turn['content']}\n</tool_response>",
        }
    parts = [turn["content"]] if turn["content"] else []
    parts += [
        f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>"
        for call in turn.get("tool_calls", ())
    ]
    return {"role": turn["role"], "content": "\n".join(parts)}


def _call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where} names no function", param=f"{where}.function")
    arguments = function.get("arguments") or "{}"
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise RequestError(
            f"{where}.function.arguments is not JSON: {error}", param=f"{where}.function.arguments"
        ) from error
    if not isinstance(read, dict):
        raise RequestError(
            f"{where}.function.arguments must be a JSON object",
            param=f"{where}.function.arguments",
        )
    named: dict[str, Any] = {"name": function["name"], "arguments": read}
    return {"id": call.get("id"), "type": "function", "function": named}
