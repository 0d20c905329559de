"""A Responses request in the chat format."""

from typing import Any

from fungible.errors import RequestError, UnsupportedError
from fungible.wire.dropping import Dropping, as_object, as_text

Block = dict[str, Any]

_SAME = (
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "top_k",
    "seed",
)
_KNOWN = frozenset(
    {
        *_SAME,
        "model",
        "input",
        "instructions",
        "stream",
        "max_output_tokens",
        "metadata",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "top_logprobs",
        "store",
        "background",
        "truncation",
    }
)
_RESEND = "send the whole conversation as input"
_STATEFUL = {
    "previous_response_id": _RESEND,
    "conversation": _RESEND,
    "prompt": "send the prompt itself as instructions and input",
    "store": "leave it out, or send false",
    "background": "leave it out, or send false",
}
_LOGPROBS = "message.output_text.logprobs"


def wants_logprobs(body: Block) -> bool:
    """Whether the answer's tokens are to come with their log-probabilities."""
    return _LOGPROBS in (body.get("include") or ()) or bool(body.get("top_logprobs"))


def chat_request(body: Block, dropping: Dropping) -> Block:
    """The body that asks a chat backend for the same; what cannot be said goes to `dropping`.

    Raises:
        RequestError: A field is malformed; names it.
        UnsupportedError: Chat has no way to say something essential, or it needs a server that
            keeps responses.
    """
    for name, hint in _STATEFUL.items():
        if body.get(name):
            message = f"{name}: no state is kept between requests to this backend"
            raise UnsupportedError(message, hint=hint, param=name)
    dropping.all_but(body, _KNOWN)
    asked: Block = {"model": body["model"], "messages": _turns(body, dropping)}
    asked |= {name: body[name] for name in _SAME if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        asked["max_completion_tokens"] = body["max_output_tokens"]
    if body.get("stream"):
        asked["stream"] = True
    if body.get("truncation") not in (None, "disabled"):
        dropping.add("truncation")
    for name in body.get("include") or ():
        if name != _LOGPROBS:
            dropping.add(f"include.{name}")
    if wants_logprobs(body):
        asked |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    return asked | _tools(body, dropping) | _forms(body, dropping)


def _forms(body: Block, dropping: Dropping) -> Block:
    asked: Block = {}
    text = as_object(body.get("text") or {}, "text")
    form = as_object(text.get("format") or {}, "text.format")
    kind = form.get("type", "text")
    if kind == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        asked["response_format"] = {"type": kind, "json_schema": schema}
    elif kind == "json_object":
        asked["response_format"] = {"type": kind}
    elif kind != "text":
        raise RequestError(f"text.format.type is {kind!r}", param="text.format.type")
    if text.get("verbosity"):
        asked["verbosity"] = text["verbosity"]
    dropping.all_but(text, {"format", "verbosity"}, "text.")
    reasoning = as_object(body.get("reasoning") or {}, "reasoning")
    if reasoning.get("effort"):
        asked["reasoning_effort"] = reasoning["effort"]
    dropping.all_but(reasoning, {"effort"}, "reasoning.")
    return asked


def _tools(body: Block, dropping: Dropping) -> Block:
    asked: Block = {}
    if body.get("tools"):
        asked["tools"] = [_tool(tool, at, dropping) for at, tool in enumerate(body["tools"])]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise UnsupportedError(
                f"tool_choice.type is {choice.get('type')!r}; chat can choose functions only",
                param="tool_choice.type",
            )
        name = as_text(choice.get("name"), "tool_choice.name")
        asked["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice is not None:
        asked["tool_choice"] = choice
    return asked


def _tool(tool: Block, at: int, dropping: Dropping) -> Block:
    if tool.get("type") != "function":
        raise UnsupportedError(
            f"tools[{at}].type is {tool.get('type')!r}; such tools run on OpenAI's own servers",
            hint="declare a function with name and parameters",
            param=f"tools[{at}].type",
        )
    names = ("name", "description", "parameters", "strict")
    as_text(tool.get("name"), f"tools[{at}].name")
    dropping.all_but(tool, {*names, "type"}, "tools.")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _turns(body: Block, dropping: Dropping) -> list[Block]:
    turns: list[Block] = []
    if body.get("instructions"):
        turns.append({"role": "system", "content": body["instructions"]})
    if isinstance(body["input"], str):
        return [*turns, {"role": "user", "content": body["input"]}]
    for at, item in enumerate(body["input"]):
        where = f"input[{at}]"
        kind = item.get("type", "message")
        if kind == "message":
            turns.append(_message(item, where))
        elif kind == "function_call":
            _call(turns, item, where)
        elif kind == "function_call_output":
            call = as_text(item.get("call_id"), f"{where}.call_id")
            content = _content(item.get("output"), f"{where}.output", text_only=True)
            turns.append({"role": "tool", "tool_call_id": call, "content": content})
        elif kind == "reasoning":
            dropping.add("input.reasoning")
        else:
            raise UnsupportedError(
                f"{where}.type is {kind!r}; chat has no such items", param=f"{where}.type"
            )
    return turns


def _message(item: Block, where: str) -> Block:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise RequestError(f"{where}.role is {role!r}", param=f"{where}.role")
    role = "system" if role == "developer" else role
    content = _content(item.get("content"), f"{where}.content", text_only=role == "assistant")
    return {"role": role, "content": content}


def _call(turns: list[Block], item: Block, where: str) -> None:
    """A call goes into the assistant's turn before it, if that is the newest one."""
    names = ("call_id", "name", "arguments")
    call, name, arguments = (as_text(item.get(one), f"{where}.{one}") for one in names)
    function = {"name": name, "arguments": arguments}
    made = {"id": call, "type": "function", "function": function}
    if turns and turns[-1]["role"] == "assistant":
        turns[-1].setdefault("tool_calls", []).append(made)
    else:
        turns.append({"role": "assistant", "content": None, "tool_calls": [made]})


def _content(content: object, where: str, *, text_only: bool) -> str | list[Block]:
    """A single text as a string, which every server takes; else parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where} is neither text nor parts", param=where)
    parts = [
        _part(as_object(part, f"{where}[{at}]"), f"{where}[{at}]", text_only)
        for at, part in enumerate(content)
    ]
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def _part(part: Block, where: str, text_only: bool) -> Block:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": as_text(part.get("text"), f"{where}.text")}
    if kind == "refusal":
        return {"type": "text", "text": as_text(part.get("refusal"), f"{where}.refusal")}
    if kind == "input_image" and not text_only:
        if part.get("file_id"):
            raise UnsupportedError(
                f"{where}.file_id: no files are kept here",
                hint="send the image as a data: URL",
                param=f"{where}.file_id",
            )
        image = {"url": as_text(part.get("image_url"), f"{where}.image_url")}
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": image | detail}
    raise UnsupportedError(f"{where}: chat has no {kind!r} in this place", param=where)
