"""Writes translated answers in the chat format (OpenAI API reference), streamed or whole."""

import time
from typing import Any

import msgspec

from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import encode_frame


class ChatWriter:
    """One answer to one request."""

    def __init__(self, request: InferenceRequest, model: str) -> None:
        self._head = {
            "id": f"chatcmpl-{request.request_id}",
            "created": int(time.time()),
            "model": model,
        }
        options = request.body.get("stream_options")
        self._usage_wanted = bool(options.get("include_usage")) if options else False

    def delta(
        self,
        delta: dict[str, Any],
        finish: str | None = None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> bytes:
        """One chunk as an event."""
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if logprobs:
            choice["logprobs"] = {"content": logprobs}
        return self._event([choice])

    def usage(self, usage: dict[str, Any] | None) -> bytes:
        """The chunk that carries token counts alone; empty where nobody asked for it."""
        return self._event([], usage) if usage is not None and self._usage_wanted else b""

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body = {"object": "chat.completion.chunk", **self._head, "choices": choices}
        if usage is not None:
            body["usage"] = usage
        return encode_frame(msgspec.json.encode(body))

    def whole(
        self,
        message: dict[str, Any],
        finish: str,
        usage: dict[str, Any] | None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> bytes:
        """A completed answer."""
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": None} | message,
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": finish,
        }
        body: dict[str, Any] = {"object": "chat.completion", **self._head, "choices": [choice]}
        if usage is not None:
            body["usage"] = usage
        return msgspec.json.encode(body)


def chat_usage(
    *, prompt: int, completion: int, cached: int = 0, written: int = 0, reasoning: int = 0
) -> dict[str, Any]:
    """The `usage` object; `cached`, `written` and `reasoning` are parts of the totals."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
    }
    if reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


def call_delta(index: int, *, arguments: str, call: str = "", name: str = "") -> dict[str, Any]:
    """What one chunk adds to the call number `index`; id and name come with its first."""
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    head = {"id": call, "type": "function"} if call else {}
    return {"tool_calls": [{"index": index, **head, "function": function}]}


def whole_call(call: str, name: str, arguments: object) -> dict[str, Any]:
    """One call of a completed answer."""
    text = msgspec.json.encode(arguments).decode()
    return {"id": call, "type": "function", "function": {"name": name, "arguments": text}}
