"""A chat completion as an Anthropic message."""

from typing import Any

import msgspec

from fungible.contract.ids import new_id
from fungible.contract.inference import usage_from_openai
from fungible.errors import UpstreamConnectError

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message_usage(raw: object) -> dict[str, int]:
    """Anthropic's counts; 0 where the backend gave none, for the format demands numbers."""
    usage = usage_from_openai(raw if isinstance(raw, dict) else {})
    return {
        "input_tokens": usage.in_uncached or 0,
        "cache_read_input_tokens": usage.in_cache_read or 0,
        "cache_creation_input_tokens": usage.in_cache_write or 0,
        "output_tokens": (usage.out_visible or 0) + (usage.out_reasoning or 0),
    }


def stop_of(choice: dict[str, Any], stops: list[str], *, called: bool) -> dict[str, Any]:
    """`stop_reason` and `stop_sequence`.

    vLLM says in `stop_reason` which of the request's sequences ended an answer.
    """
    matched = choice.get("stop_reason")
    if choice.get("finish_reason") == "stop" and isinstance(matched, str) and matched in stops:
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    reason = _STOPS.get(str(choice.get("finish_reason")), "end_turn")
    if called and reason == "end_turn":  # some servers say `stop` after calls
        reason = "tool_use"
    return {"stop_reason": reason, "stop_sequence": None}


def text_of(content: object) -> str:
    """The text of a message's content: a string, or parts of which some are text."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def thought_of(part: dict[str, Any]) -> str:
    """Reasoning beside the answer, under the two names that servers give it."""
    return text_of(part.get("reasoning_content") or part.get("reasoning"))


def message(
    answer: dict[str, Any], name: str, model: str, stops: list[str], *, thinking: bool
) -> bytes:
    """The message.

    Args:
        answer: The completion, decoded.
        name: What the message is called.
        model: Its name where the backend gave none.
        stops: The request's stop sequences.
        thinking: Whether the client asked to see reasoning.

    Raises:
        UpstreamConnectError: A finished call's arguments are no JSON object.
    """
    choice = answer["choices"][0]
    said = choice.get("message") or {}
    content: list[dict[str, Any]] = []
    if thinking and (thought := thought_of(said)):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := text_of(said.get("content")) or text_of(said.get("refusal")):
        content.append({"type": "text", "text": text})
    calls = said.get("tool_calls") or []
    cut = choice.get("finish_reason") == "length"
    content += [_tool_use(call, cut=cut) for call in calls]
    body = {
        "id": name,
        "type": "message",
        "role": "assistant",
        "model": answer.get("model") or model,
        "content": content,
        **stop_of(choice, stops, called=bool(calls)),
        "usage": message_usage(answer.get("usage")),
    }
    if said.get("refusal"):
        body["stop_reason"] = "refusal"
    return msgspec.json.encode(body)


def _tool_use(call: dict[str, Any], *, cut: bool) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, TypeError) as error:
        if not cut:
            raise UpstreamConnectError(
                f"the backend called {function.get('name')!r} with what is no JSON object"
            ) from error
        arguments = {}
    return {
        "type": "tool_use",
        "id": call.get("id") or new_id("toolu_"),
        "name": function.get("name") or "",
        "input": arguments,
    }
