"""Chat requests as requests of Gemini's generateContent (Vertex AI API, `v1`)."""

import mimetypes
from typing import Any, Literal

import msgspec

from fungible.contract.openai import ChatMessage
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

Thinking = Literal["level", "budget"]
Piece = dict[str, Any]

TRANSLATED = CARRIED | {
    "frequency_penalty",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
}
IGNORED = FIELDS - TRANSLATED

# What Google's own OpenAI-compatible endpoint makes of `reasoning_effort` in tokens.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}


def to_gemini(body: dict[str, Any], thinking: Thinking = "level") -> dict[str, Any]:
    """The request body of generateContent and streamGenerateContent.

    Args:
        body: The chat request.
        thinking: How `reasoning_effort` is said: a level (Gemini 3), or tokens (Gemini 2.5).

    Raises:
        RequestError: A field is malformed; names it.
        UnsupportedError: Gemini cannot say something that the answer depends on.
    """
    chat = read_chat(body)
    system, contents = _turns(chat)
    parts = {
        "systemInstruction": {"parts": system} if system else {},
        "generationConfig": _generation(chat) | _thought(chat, thinking),
        "tools": _tools(chat),
        "toolConfig": _choice(chat),
    }
    return {"contents": contents} | {name: part for name, part in parts.items() if part}


def _turns(chat: ChatFields) -> tuple[list[Piece], list[Piece]]:
    """System pieces, and contents in which the two roles take turns."""
    system: list[Piece] = []
    contents: list[Piece] = []
    names: dict[str, str] = {}
    for at, turn in enumerate(chat.messages):
        pieces = [_piece(part, at) for part in parts_of_turn(turn, at)]
        if turn.role in ("system", "developer"):
            system += pieces
            continue
        if turn.role == "tool":
            pieces = [_result(turn, names, at)]
        for number, call in enumerate(calls_of_turn(turn, at)):
            names[call.id] = call.name
            signature = _signature((turn.tool_calls or [])[number])
            asked = {"functionCall": {"name": call.name, "args": call.arguments}}
            pieces.append(asked | ({"thoughtSignature": signature} if signature else {}))
        role = "model" if turn.role == "assistant" else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += pieces
        elif pieces:
            contents.append({"role": role, "parts": pieces})
    return system, contents


def _result(turn: ChatMessage, names: dict[str, str], at: int) -> Piece:
    """Gemini knows an answer to a call by the function's name, and wants an object."""
    name = names.get(turn.tool_call_id or "")
    if name is None:
        where = f"messages[{at}].tool_call_id"
        raise RequestError(f"{where} answers no earlier call", param=where)
    text = turn.text()
    try:
        said: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        said = text
    response = said if isinstance(said, dict) else {"result": said}
    return {"functionResponse": {"name": name, "response": response}}


def _signature(call: dict[str, Any]) -> str:
    """Gemini's own note on a call, as its answer carried it: it wants it back."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _piece(part: Part, at: int) -> Piece:
    if part.text:
        return {"text": part.text}
    kind = part.media_type
    if kind.endswith("/*"):
        kind = mimetypes.guess_type(part.url.partition("?")[0])[0] or ""
    if not kind:
        where = f"messages[{at}].content"
        raise UnsupportedError(
            f"{where}: the URL does not tell its media type, which Gemini wants to know",
            hint="send a data: URL, or one that ends in .png, .jpg …",
            param=where,
        )
    if part.url:
        return {"fileData": {"mimeType": kind, "fileUri": part.url}}
    return {"inlineData": {"mimeType": kind, "data": part.data}}


def _generation(chat: ChatFields) -> Piece:
    if not all(chat.stops):
        raise RequestError("stop has an empty sequence", param="stop")
    values: Piece = {
        "temperature": chat.temperature,
        "topP": chat.top_p,
        "topK": chat.top_k,
        "maxOutputTokens": chat.most_tokens,
        "stopSequences": chat.stops or None,
        "seed": chat.seed,
        "presencePenalty": chat.presence_penalty,
        "frequencyPenalty": chat.frequency_penalty,
        "responseLogprobs": True if chat.logprobs else None,
        "logprobs": chat.top_logprobs if chat.logprobs else None,
    }
    wanted = chat.response_format
    if wanted is not None and wanted.type != "text":
        values["responseMimeType"] = "application/json"
    if wanted is not None and wanted.json_schema is not None:
        values["responseJsonSchema"] = wanted.json_schema.schema
    return {name: value for name, value in values.items() if value is not None}


def _thought(chat: ChatFields, thinking: Thinking) -> Piece:
    effort = chat.reasoning_effort
    if not effort:
        return {}
    if thinking == "budget" or effort == "none":
        if effort not in _BUDGETS:
            raise UnsupportedError(
                f"reasoning_effort: no budget for {effort!r}", param="reasoning_effort"
            )
        return {"thinkingConfig": {"thinkingBudget": _BUDGETS[effort]}}
    return {"thinkingConfig": {"thinkingLevel": effort.upper()}}


def _tools(chat: ChatFields) -> list[Piece]:
    declared = []
    for function in chat.functions():
        one: Piece = {"name": function.name}
        if function.description:
            one["description"] = function.description
        if function.parameters:
            one["parametersJsonSchema"] = function.parameters
        declared.append(one)
    return [{"functionDeclarations": declared}] if declared else []


def _choice(chat: ChatFields) -> Piece:
    if not chat.tools:
        return {}
    if (name := chat.chosen_function()) is not None:
        return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}}
    mode = _MODES.get(str(chat.tool_choice))
    return {"functionCallingConfig": {"mode": mode}} if mode else {}
