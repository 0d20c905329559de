"""Writes a response as typed events and keeps what it has become."""

import time
from typing import Any

import msgspec

from fungible.contract.ids import new_id
from fungible.contract.inference import usage_from_openai
from fungible.contract.sse import encode_event
from fungible.wire.responses_on_chat.items import Item, OpenItem

_PREFIX = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "user",
)
# The part's text as events name it.
_GROWS = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
}


class ResponseStream:
    """One response. Items follow one another: each is closed before the next opens.

    Args:
        asked: The client's request, of which a response repeats some fields.
        model: The name that the client asked for.
        name: What the response is called.

    Attributes:
        sequence: The number of the next event.
    """

    def __init__(self, asked: dict[str, Any], model: str, name: str) -> None:
        echo = {name: asked[name] for name in _ECHOED if asked.get(name) is not None}
        self._head: Item = {
            "id": name,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "store": False,
            "background": False,
            "previous_response_id": None,
            "truncation": "disabled",
            **echo,
        }
        self._output: list[Item] = []
        self._open: OpenItem | None = None
        self._events: list[bytes] = []
        self.sequence = 0
        self._begun = False

    def take(self) -> bytes:
        """The events since the last call."""
        events, self._events = self._events, []
        return b"".join(events)

    def begin(self, model: str | None) -> None:
        """Say that there will be a response; `model` is the backend's own name for it."""
        if self._begun:
            return
        self._begun = True
        if model:
            self._head["model"] = model
        for kind in ("response.created", "response.in_progress"):
            self._send(kind, response=self._response("in_progress"))

    def say(self, part: str, text: str, logprobs: list[Item] | None = None) -> None:
        """More of a part: `output_text`, `refusal` or `reasoning_text`."""
        kind = "reasoning" if part == "reasoning_text" else "message"
        item = self._item(kind)
        if item.part != part:
            self._close_part(item)
            item.part = part
            self._send("response.content_part.added", **item.at, part=item.whole_part())
        item.text += text
        extra: Item = {}
        if part == "output_text":
            item.logprobs += logprobs or []
            extra = {"logprobs": logprobs or []}
        self._send(f"{_GROWS[part][0]}.delta", **item.at, delta=text, **extra)

    def call(self, call_id: str, name: str) -> None:
        """Begin a call."""
        self._close()
        self._item("function_call", call_id=call_id, name=name)

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that is open."""
        item = self._item("function_call")
        item.text += text
        self._send("response.function_call_arguments.delta", **item.at, delta=text)

    @property
    def calling(self) -> bool:
        """Whether a call is the open item."""
        return self._open is not None and self._open.kind == "function_call"

    def end(self, finish: str, usage: object) -> None:
        """Close everything, and the response with chat's reason and counts."""
        self.begin(None)
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish)
        status = "incomplete" if reason else "completed"
        self._close(status)
        fields: Item = {"usage": _usage(usage)}
        if reason:
            fields["incomplete_details"] = {"reason": reason}
        else:
            fields["completed_at"] = int(time.time())
        self.response = self._response(status, **fields)
        self._send(f"response.{status}", response=self.response)

    def _response(self, status: str, **fields: object) -> Item:
        blank: Item = {"error": None, "incomplete_details": None, "usage": None}
        return self._head | blank | {"status": status, "output": list(self._output)} | fields

    def _send(self, kind: str, **fields: Any) -> None:  # noqa: ANN401  # parts of JSON
        body = {"type": kind, "sequence_number": self.sequence, **fields}
        self.sequence += 1
        self._events.append(encode_event(kind, msgspec.json.encode(body)))

    def _item(self, kind: str, **call: str) -> OpenItem:
        """The open item, if it is of this kind; else a new one."""
        if self._open is not None and self._open.kind == kind:
            return self._open
        self._close()
        item = self._open = OpenItem(kind, len(self._output), new_id(_PREFIX[kind]))
        item.call = dict(call)
        added = item.whole("in_progress")
        self._send("response.output_item.added", output_index=item.index, item=added)
        return item

    def _close_part(self, item: OpenItem) -> None:
        if not item.part:
            return
        name, field = _GROWS[item.part]
        extra = {"logprobs": item.logprobs} if item.part == "output_text" else {}
        self._send(f"{name}.done", **item.at, **{field: item.text}, **extra)
        part = item.whole_part()
        self._send("response.content_part.done", **item.at, part=part)
        item.done.append(part)
        item.part, item.text, item.logprobs = "", "", []

    def _close(self, status: str = "completed") -> None:
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "function_call":
            self._send("response.function_call_arguments.done", **item.at, arguments=item.text)
        self._close_part(item)
        whole = item.whole(status)
        self._output.append(whole)
        self._send("response.output_item.done", output_index=item.index, item=whole)


def _usage(raw: object) -> Item | None:
    usage = usage_from_openai(raw if isinstance(raw, dict) else {})
    if usage.source == "none":
        return None
    read, written = usage.in_cache_read or 0, usage.in_cache_write or 0
    prompt = (usage.in_uncached or 0) + read + written
    out = (usage.out_visible or 0) + (usage.out_reasoning or 0)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "output_tokens": out,
        "output_tokens_details": {"reasoning_tokens": usage.out_reasoning or 0},
        "total_tokens": prompt + out,
    }
