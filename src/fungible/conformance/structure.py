"""Answers of a given form: tool calls, JSON, JSON of a schema, pictures in the question."""

from typing import Any

import msgspec

from fungible.conformance.asker import Answer, Asker
from fungible.conformance.finding import HONOURED, Told, degraded, ignored, untested

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "adult": {"type": "boolean"}},
    "required": ["name", "adult"],
    "additionalProperties": False,
}
# One red pixel.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/"
    "iZk9HQAAAABJRU5ErkJggg=="
)
_QUESTION = "What is the weather in Paris? Use the tool."


async def tools(asker: Asker) -> Told:
    """A tool that must be called is called, with arguments of its schema."""
    answer = await asker.ask(_QUESTION, tools=[_WEATHER], tool_choice="required", max_tokens=200)
    message = answer.body["choices"][0].get("message") or {}
    return _judged(message.get("tool_calls") or [], answer)


async def tools_in_streams(asker: Asker) -> Told:
    """The same, put together from the pieces of a stream."""
    answer = await asker.ask(
        _QUESTION, tools=[_WEATHER], tool_choice="required", max_tokens=200, stream=True
    )
    calls: dict[int, dict[str, Any]] = {}
    for event in answer.events:
        for choice in event.get("choices") or []:
            for piece in (choice.get("delta") or {}).get("tool_calls") or []:
                call = calls.setdefault(piece["index"], {"function": {"name": "", "arguments": ""}})
                said = piece.get("function") or {}
                call["function"]["name"] += said.get("name") or ""
                call["function"]["arguments"] += said.get("arguments") or ""
    return _judged(list(calls.values()), answer)


def _judged(calls: list[dict[str, Any]], answer: Answer) -> Told:
    if not calls:
        return ignored("a tool had to be called and none was")
    function = calls[0]["function"]
    if function.get("name") != "get_weather":
        return degraded(f"it called {function.get('name')!r}, which was not offered")
    arguments = _object(function.get("arguments") or "")
    if arguments is None or not isinstance(arguments.get("city"), str):
        return degraded("the arguments of the call do not fit its schema")
    if answer.row.finish_reason != "tool_calls":
        return degraded(f"finish_reason is {answer.row.finish_reason!r} after a call")
    return HONOURED


async def json_object(asker: Asker) -> Told:
    """`response_format` of type `json_object` gives a JSON object."""
    answer = await asker.ask(
        "A JSON object with the key a and the value 1.",
        response_format={"type": "json_object"},
        max_tokens=96,
    )
    if _object(answer.text) is not None:
        return HONOURED
    return _not_json(answer)


async def json_schema(asker: Asker) -> Told:
    """A strict JSON schema is kept to, whatever the model would rather say."""
    form = {"name": "person", "strict": True, "schema": _PERSON}
    answer = await asker.ask(
        "Describe Ada, who is 36.",
        response_format={"type": "json_schema", "json_schema": form},
        max_tokens=64,
    )
    given = _object(answer.text)
    if given is None:
        return _not_json(answer)
    fits = set(given) == {"name", "adult"} and isinstance(given["adult"], bool)
    return HONOURED if fits else degraded("the answer is JSON, but not of the schema")


async def images(asker: Asker) -> Told:
    """A picture in the question is read: it costs prompt tokens."""
    plain = {"type": "text", "text": "What colour is this?"}
    picture = {"type": "image_url", "image_url": {"url": _PIXEL}}
    without = await asker.ask(messages=[{"role": "user", "content": [plain]}], max_tokens=8)
    seen = await asker.ask(messages=[{"role": "user", "content": [plain, picture]}], max_tokens=8)
    before, after = without.row.in_uncached, seen.row.in_uncached
    if before is None or after is None:
        return untested("no token counts to tell by")
    total = (after or 0) + (seen.row.in_cache_read or 0)
    more = total > before + (without.row.in_cache_read or 0)
    return HONOURED if more else ignored("the picture cost no prompt tokens")


def _not_json(answer: Answer) -> Told:
    # Cut short, a constrained answer is the beginning of an object; anything else is not.
    if answer.row.finish_reason == "length" and answer.text.lstrip()[:1] in ("{", ""):
        return untested("the answer did not end within its tokens")
    return ignored("the answer is not a JSON object")


def _object(text: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError):
        return None
