"""Anthropic's Messages from a chat backend, whole and streamed."""

from typing import Any

import msgspec

from fungible.contract.ids import new_id
from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.contract.sse import encode_event, frame_data
from fungible.errors import StreamBrokenError
from fungible.wire.dropping import Dropping
from fungible.wire.messages_on_chat.answer import (
    message,
    message_usage,
    stop_of,
    text_of,
    thought_of,
)
from fungible.wire.messages_on_chat.request import chat_request


class MessagesOnChat:
    """One attempt. A stream's blocks follow one another: each is closed before the next opens."""

    endpoint: Endpoint = "chat/completions"
    number = 0

    def __init__(self, request: InferenceRequest) -> None:
        body = request.body
        self._model = request.model
        self._name = f"msg_{request.request_id}"
        self._stops: list[str] = body.get("stop_sequences") or []
        self._thinking = (body.get("thinking") or {}).get("type", "disabled") != "disabled"
        self.dropped: tuple[str, ...] = ()
        self._out: list[bytes] = []
        self._started = False
        self._block = -1  # index of the newest block
        self._open = ""  # kind of the block that is open
        self._call = -1  # chat's number of the newest call
        self._ending: dict[str, Any] = {"stop_reason": "end_turn", "stop_sequence": None}
        self._refused = False
        self._usage: object = None

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body for the backend."""
        asked = chat_request(body, dropping := Dropping())
        self.dropped = dropping.names
        return asked

    def whole(self, body: bytes) -> bytes:
        """A completion as a message."""
        answer = msgspec.json.decode(body, type=dict[str, Any])
        return message(answer, self._name, self._model, self._stops, thinking=self._thinking)

    def event(self, frame: bytes) -> bytes:
        """One chunk as events; `[DONE]` as `message_delta` and `message_stop`."""
        data = frame_data(frame)
        if data is None:
            return b""
        if data.strip() == b"[DONE]":
            self._end()
        else:
            self._chunk(msgspec.json.decode(data, type=dict[str, Any]))
        out, self._out = self._out, []
        return b"".join(out)

    def _send(self, kind: str, **fields: Any) -> None:  # noqa: ANN401  # parts of JSON
        self._out.append(encode_event(kind, msgspec.json.encode({"type": kind, **fields})))

    def _start(self, chunk: dict[str, Any]) -> None:
        if self._started:
            return
        self._started = True
        head: dict[str, Any] = {
            "id": self._name,
            "type": "message",
            "role": "assistant",
            "model": chunk.get("model") or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": message_usage(None),
        }
        self._send("message_start", message=head)

    def _chunk(self, chunk: dict[str, Any]) -> None:
        self._start(chunk)
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if self._thinking and (thought := thought_of(delta)):
                self._into("thinking", thinking="", signature="")
                self._delta(type="thinking_delta", thinking=thought)
            if text := text_of(delta.get("content")) or text_of(delta.get("refusal")):
                self._refused = self._refused or bool(delta.get("refusal"))
                self._into("text", text="")
                self._delta(type="text_delta", text=text)
            for call in delta.get("tool_calls") or ():
                self._tool(call)
            if choice.get("finish_reason"):
                self._ending = stop_of(choice, self._stops, called=self._call >= 0)

    def _tool(self, call: dict[str, Any]) -> None:
        number, function = call.get("index") or 0, call.get("function") or {}
        if number > self._call:
            self._call = number
            self._close()
            name = call.get("id") or new_id("toolu_")
            self._into("tool_use", id=name, name=function.get("name") or "", input={})
        elif number < self._call or self._open != "tool_use":
            raise StreamBrokenError("the backend mixed the arguments of several calls")
        if arguments := function.get("arguments"):
            self._delta(type="input_json_delta", partial_json=arguments)

    def _into(self, kind: str, **block: Any) -> None:  # noqa: ANN401  # parts of JSON
        """Make a block of this kind the open one."""
        if self._open == kind:
            return
        self._close()
        self._block += 1
        self._open = kind
        self._send("content_block_start", index=self._block, content_block={"type": kind, **block})

    def _delta(self, **delta: Any) -> None:  # noqa: ANN401  # parts of JSON
        self._send("content_block_delta", index=self._block, delta=delta)

    def _close(self) -> None:
        if self._open:
            self._send("content_block_stop", index=self._block)
            self._open = ""

    def _end(self) -> None:
        self._start({})
        self._close()
        if self._refused:
            self._ending = {"stop_reason": "refusal", "stop_sequence": None}
        self._send("message_delta", delta=self._ending, usage=message_usage(self._usage))
        self._send("message_stop")
