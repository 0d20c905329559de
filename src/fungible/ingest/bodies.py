"""Response bodies as providers send them: OpenAI's four kinds and Anthropic's messages."""

from typing import Any

import msgspec

from fungible.contract.sse import EventBuffer, split_frames
from fungible.errors import InputError, StreamBrokenError
from fungible.ingest.usage import anthropic_leaves, openai_leaves, usage_leaves
from fungible.ingest.values import first_text, mapping, moment, text
from fungible.wire.chat import ChatObserver
from fungible.wire.completions import CompletionObserver
from fungible.wire.messages import MessageObserver
from fungible.wire.observer import Observer
from fungible.wire.responses import ResponseObserver

FINAL, SECOND_HAND, PARTIAL, GUESS = 4, 3, 2, 1
RANKS = {
    "provider_final": FINAL,
    "provider_partial": PARTIAL,
    "counted": GUESS,
    "estimated": GUESS,
}
Fields = dict[str, Any]
_KINDS = {
    "chat.completion": "chat",
    "text_completion": "text_completion",
    "response": "responses",
    "list": "embeddings",
}
_CUT = {"incomplete": "", "failed": "error", "cancelled": "cancelled", "in_progress": "interrupted"}
_OBSERVERS: dict[str, type[Observer]] = {
    "chat": ChatObserver,
    "text_completion": CompletionObserver,
    "responses": ResponseObserver,
    "messages": MessageObserver,
}


def kind_of_body(body: object) -> str:
    """The operation that a body answers; empty when it is no answer that is known."""
    if not isinstance(body, dict):
        return ""
    if body.get("type") == "message" and "usage" in body:
        return "messages"
    kind = _KINDS.get(text(body.get("object")), "")
    if kind == "embeddings" and "usage" not in body:
        return ""  # a page of some list
    return kind


def read_body(body: Fields) -> Fields:
    """The fields of `Observed` that a body states.

    Raises:
        InputError: It is no answer that is known, or its counts don't add up.
    """
    kind = kind_of_body(body)
    if not kind:
        raise InputError("this is no response body of OpenAI or Anthropic")
    found: Fields = {
        "operation": kind,
        "response_id": text(body.get("id")),
        "response_model": text(body.get("model")),
        "finish_reason": _finish_reason(body),
    }
    usage = mapping(body.get("usage"))
    if kind == "messages":
        leaves = anthropic_leaves(body.get("usage"))
        found["tier"] = text(usage.get("service_tier"))
    else:
        leaves = openai_leaves(body.get("usage"))
        created = body.get("created_at") if kind == "responses" else body.get("created")
        found |= {
            "started_ns": moment(created, "created"),
            "tier": text(body.get("service_tier")),
        }
    status = _CUT.get(text(body.get("status")), "")
    source = "provider_partial" if status == "interrupted" else "provider_final"
    return found | {"status": status} | stated(leaves, source)


def stated(leaves: dict[str, int | None], source: str, rank: int | None = None) -> Fields:
    """Leaves with their provenance; nothing when nothing is known."""
    if not leaves or all(value is None for value in leaves.values()):
        return {}
    worth = RANKS[source] if rank is None else rank
    return {**leaves, "usage_source": source, "rank": worth}


def read_stream(data: str, operation: str) -> Fields:
    """The same of the text of a whole stream of server-sent events.

    Raises:
        InputError: Its format is not known, or nothing of it can be read.
    """
    kind = operation or _kind_of_stream(data)
    if kind not in _OBSERVERS:
        raise InputError("the stream is none of OpenAI's or Anthropic's")
    observer = _OBSERVERS[kind]()
    buffer = EventBuffer()
    raw = data.encode("utf-8", "replace")
    status = ""
    try:
        for frame in split_frames(buffer.feed(raw) + buffer.last()):
            observer.event(frame)
    except StreamBrokenError:
        status = "interrupted"
    found = _head_of_stream(data) | {"operation": kind, "status": status, "streamed": True}
    found |= {"finish_reason": observer.finish_reason}
    source = observer.usage.source
    if source == "none":
        return found
    return found | stated(usage_leaves(observer.usage), source)


def _kind_of_stream(data: str) -> str:
    head = data[:4000]
    marks = {
        "chat": '"chat.completion.chunk"',
        "text_completion": '"text_completion"',
        "responses": '"response.created"',
        "messages": '"message_start"',
    }
    return next((kind for kind, mark in marks.items() if mark in head), "")


def _head_of_stream(data: str) -> Fields:
    """Id, model and time of the first event that states them."""
    for line in data[:100_000].splitlines():
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            continue
        try:
            event = mapping(msgspec.json.decode(line[5:].strip()))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        head = mapping(event.get("message") or event.get("response")) or event
        if name := text(head.get("id")):
            created = head.get("created") or head.get("created_at")
            usage = mapping(head.get("usage"))
            return {
                "response_id": name,
                "response_model": text(head.get("model")),
                "tier": first_text(head.get("service_tier"), usage.get("service_tier")),
                "started_ns": moment(created, "created"),
            }
    return {}


def _finish_reason(body: Fields) -> str:
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        return text(mapping(choices[0]).get("finish_reason"))
    why = mapping(body.get("incomplete_details")).get("reason")
    return first_text(body.get("stop_reason"), why)
