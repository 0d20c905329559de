"""Chat requests as requests of Bedrock's Converse API (service model `bedrock-runtime`)."""

import hashlib
import re
from typing import Any

import msgspec

from fungible.errors import RequestError, UnsupportedError
from fungible.wire.chat_reading import (
    CARRIED,
    FIELDS,
    ChatFields,
    Part,
    calls_of_turn,
    parts_of_turn,
    read_chat,
)

Block = dict[str, Any]

TRANSLATED = CARRIED | {
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "reasoning_effort",
    "response_format",
    "service_tier",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
}
IGNORED = FIELDS - TRANSLATED

_CALL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_IMAGES = frozenset({"png", "jpeg", "gif", "webp"})
_AUDIO = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}


def to_converse(body: dict[str, Any]) -> dict[str, Any]:
    """The request body of Converse and ConverseStream; the model is in their path.

    Raises:
        RequestError: A field is malformed; names it.
        UnsupportedError: Converse cannot say something that the answer depends on.
    """
    chat = read_chat(body)
    system, messages = _turns(chat)
    found: dict[str, Any] = {"messages": messages}
    parts = {
        "system": system,
        "inferenceConfig": _inference(chat),
        "toolConfig": _tools(chat, messages),
        "outputConfig": _output(chat),
        "additionalModelRequestFields": {} if chat.top_k is None else {"top_k": chat.top_k},
        "serviceTier": _tier(chat),
    }
    return found | {name: part for name, part in parts.items() if part}


def _turns(chat: ChatFields) -> tuple[list[Block], list[Block]]:
    """System blocks, and messages in which the two roles take turns."""
    system: list[Block] = []
    messages: list[Block] = []
    for at, turn in enumerate(chat.messages):
        blocks = [block for part in parts_of_turn(turn, at) for block in _blocks(part, at)]
        if turn.role in ("system", "developer"):
            system += blocks
            continue
        if turn.role == "tool":
            result = {"toolUseId": call_id(turn.tool_call_id or ""), "content": blocks}
            blocks = [{"toolResult": result}]
        for call in calls_of_turn(turn, at):
            use = {"toolUseId": call_id(call.id), "name": call.name, "input": call.arguments}
            blocks.append({"toolUse": use})
        role = "assistant" if turn.role == "assistant" else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    return system, messages


def call_id(client: str) -> str:
    """The client's id of a call where Bedrock takes it, otherwise one made from it."""
    if _CALL_ID.fullmatch(client):
        return client
    return f"call_{hashlib.sha256(client.encode()).hexdigest()[:24]}"


def _blocks(part: Part, at: int) -> list[Block]:
    found: list[Block] = [{"text": part.text} if part.text else _media(part, at)]
    if part.cached is not None:
        lasting = {"ttl": part.cached} if part.cached in ("5m", "1h") else {}
        found.append({"cachePoint": {"type": "default"} | lasting})
    return found


def _media(part: Part, at: int) -> Block:
    kind, _, subtype = part.media_type.partition("/")
    where = f"messages[{at}].content"
    if part.url and not part.url.startswith("s3://"):
        raise UnsupportedError(
            f"{where}: Bedrock fetches no URLs", hint="send a data: or s3:// URL", param=where
        )
    source: Block = {"s3Location": {"uri": part.url}} if part.url else {"bytes": part.data}
    if part.media_type in _DOCUMENTS:
        # Bedrock allows few characters in a name, and not two spaces in a row.
        name = re.sub(r"[^A-Za-z0-9\-()\[\]]+", " ", part.name).strip()[:200] or "file"
        form = _DOCUMENTS[part.media_type]
        return {"document": {"format": form, "name": name, "source": source}}
    if kind == "image":
        subtype = part.url.rpartition(".")[2].lower() if part.url else subtype
        subtype = "jpeg" if subtype == "jpg" else subtype
        if subtype in _IMAGES:
            return {"image": {"format": subtype, "source": source}}
    if kind == "audio":
        return {"audio": {"format": _AUDIO.get(subtype, subtype), "source": source}}
    raise UnsupportedError(f"{where}: Bedrock takes no {part.media_type}", param=where)


def _inference(chat: ChatFields) -> Block:
    for name, value in (("temperature", chat.temperature), ("top_p", chat.top_p)):
        if value is not None and not 0 <= value <= 1:
            raise UnsupportedError(f"{name} is {value}; Converse takes 0 to 1", param=name)
    if not all(chat.stops):
        raise RequestError("stop has an empty sequence", param="stop")
    values = {
        "maxTokens": chat.most_tokens,
        "temperature": chat.temperature,
        "topP": chat.top_p,
        "stopSequences": chat.stops or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _tools(chat: ChatFields, messages: list[Block]) -> Block:
    functions = chat.functions()
    if chat.tool_choice == "none" and functions:
        if any("toolUse" in block for turn in messages for block in turn["content"]):
            raise UnsupportedError(
                'tool_choice: Converse cannot say "none" after a tool was used',
                param="tool_choice",
            )
        return {}
    if not functions:
        return {}
    specs = []
    for function in functions:
        empty: Block = {"type": "object", "properties": {}}
        spec: Block = {"name": function.name}
        if function.description:
            spec["description"] = function.description
        spec["inputSchema"] = {"json": function.parameters or empty}
        if function.strict is not None:
            spec["strict"] = function.strict
        specs.append({"toolSpec": spec})
    return {"tools": specs} | _choice(chat)


def _choice(chat: ChatFields) -> Block:
    if (name := chat.chosen_function()) is not None:
        return {"toolChoice": {"tool": {"name": name}}}
    if chat.tool_choice == "required":
        return {"toolChoice": {"any": {}}}
    return {"toolChoice": {"auto": {}}} if chat.tool_choice == "auto" else {}


def _output(chat: ChatFields) -> Block:
    found: Block = {}
    wanted = chat.response_format
    if wanted is not None and wanted.type == "json_object":
        raise UnsupportedError(
            "response_format: Converse has no JSON mode without a schema",
            hint='use {"type": "json_schema", …}',
            param="response_format",
        )
    if wanted is not None and wanted.json_schema is not None:
        schema = wanted.json_schema
        text: Block = {"schema": msgspec.json.encode(schema.schema).decode(), "name": schema.name}
        if schema.description:
            text["description"] = schema.description
        found["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": text}}
    if chat.reasoning_effort:
        found["effort"] = chat.reasoning_effort
    return found


def _tier(chat: ChatFields) -> Block:
    known = ("default", "flex", "priority")
    return {"type": chat.service_tier} if chat.service_tier in known else {}
