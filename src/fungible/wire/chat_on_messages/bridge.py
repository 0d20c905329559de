"""Chat completions from an Anthropic backend, whole and streamed."""

from typing import Any

import msgspec

from fungible.contract.inference import Endpoint, InferenceRequest, usage_from_anthropic
from fungible.contract.sse import DONE, frame_data
from fungible.wire.chat_on_messages.request import messages_request
from fungible.wire.chat_writing import ChatWriter, call_delta, chat_usage, whole_call
from fungible.wire.dropping import Dropping

_FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def finish_of(stop_reason: object) -> str:
    """Chat's name for why an answer ended."""
    return _FINISHES.get(str(stop_reason), "stop")


def usage_of(counts: dict[str, Any]) -> dict[str, Any] | None:
    """Chat's totals, which include what caches held; `None` where nothing is known."""
    usage = usage_from_anthropic(counts, final=True)
    if usage.source == "none":
        return None
    read, written = usage.in_cache_read or 0, usage.in_cache_write or 0
    reasoning = usage.out_reasoning or 0
    return chat_usage(
        prompt=(usage.in_uncached or 0) + read + written,
        completion=(usage.out_visible or 0) + reasoning,
        cached=read,
        written=written,
        reasoning=reasoning,
    )


class ChatOnMessages:
    """One attempt."""

    endpoint: Endpoint = "messages"
    number = 0

    def __init__(self, request: InferenceRequest) -> None:
        self._request = request
        self.dropped: tuple[str, ...] = ()
        self._write = ChatWriter(request, request.model)
        self._counts: dict[str, Any] = {}
        self._calls = 0
        self._bare_call = False  # a call is open whose arguments have not come yet

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body for the backend."""
        asked = messages_request(body, dropping := Dropping())
        self.dropped = dropping.names
        return asked

    def whole(self, body: bytes) -> bytes:
        """A message as a completion."""
        answer = msgspec.json.decode(body, type=dict[str, Any])
        blocks = [block for block in answer["content"] if isinstance(block, dict)]
        text = "".join(block.get("text") or "" for block in blocks if block.get("type") == "text")
        thought = "".join(block.get("thinking") or "" for block in blocks)
        calls = [
            whole_call(str(block.get("id")), str(block.get("name")), block.get("input") or {})
            for block in blocks
            if block.get("type") == "tool_use"
        ]
        said: dict[str, Any] = {"content": text or None}
        if thought:
            said["reasoning_content"] = thought
        if calls:
            said["tool_calls"] = calls
        writer = ChatWriter(self._request, answer.get("model") or self._request.model)
        usage = usage_of(answer.get("usage") or {})
        return writer.whole(said, finish_of(answer.get("stop_reason")), usage)

    def event(self, frame: bytes) -> bytes:
        """One event as chunks; `message_stop` as the counts, where asked for, and `[DONE]`."""
        data = frame_data(frame)
        if data is None or not data.strip():
            return b""
        event = msgspec.json.decode(data, type=dict[str, Any])
        kind = event.get("type")
        if kind == "message_start":
            return self._start(event.get("message") or {})
        if kind == "content_block_start":
            return self._block(event.get("content_block") or {})
        if kind == "content_block_delta":
            return self._delta(event.get("delta") or {})
        if kind == "content_block_stop" and self._bare_call:
            return self._arguments("{}")
        if kind == "message_delta":
            return self._finish(event)
        if kind == "message_stop":
            return self._write.usage(usage_of(self._counts)) + DONE
        return b""

    def _start(self, message: dict[str, Any]) -> bytes:
        self._write = ChatWriter(self._request, message.get("model") or self._request.model)
        self._count(message.get("usage"))
        return self._write.delta({"role": "assistant", "content": ""})

    def _block(self, block: dict[str, Any]) -> bytes:
        if block.get("type") == "tool_use":
            self._calls += 1
            self._bare_call = True
            name, call = str(block.get("name")), str(block.get("id"))
            delta = call_delta(self._calls - 1, arguments="", call=call, name=name)
            return self._write.delta(delta)
        return self._delta(block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        if text := delta.get("text"):
            return self._write.delta({"content": text})
        if thought := delta.get("thinking"):
            return self._write.delta({"reasoning_content": thought})
        if part := delta.get("partial_json"):
            return self._arguments(part)
        return b""

    def _arguments(self, part: str) -> bytes:
        self._bare_call = False
        return self._write.delta(call_delta(self._calls - 1, arguments=part))

    def _finish(self, event: dict[str, Any]) -> bytes:
        self._count(event.get("usage"))
        reason = (event.get("delta") or {}).get("stop_reason")
        return self._write.delta({}, finish_of(reason)) if reason else b""

    def _count(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._counts |= {name: count for name, count in usage.items() if count is not None}
