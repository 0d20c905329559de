"""OpenAI's Responses from a chat backend, whole and streamed."""

from typing import Any

import msgspec

from fungible.contract.ids import new_id
from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.contract.sse import frame_data
from fungible.errors import StreamBrokenError
from fungible.wire.dropping import Dropping
from fungible.wire.messages_on_chat.answer import text_of, thought_of
from fungible.wire.responses_on_chat.items import logprobs_of
from fungible.wire.responses_on_chat.request import chat_request
from fungible.wire.responses_on_chat.stream import ResponseStream


class ResponsesOnChat:
    """One attempt."""

    endpoint: Endpoint = "chat/completions"

    def __init__(self, request: InferenceRequest) -> None:
        self.dropped: tuple[str, ...] = ()
        self._stream = ResponseStream(request.body, request.model, f"resp_{request.request_id}")
        self._call = -1  # chat's number of the newest call
        self._finish = "stop"
        self._usage: object = None

    @property
    def number(self) -> int:
        """Of the next event."""
        return self._stream.sequence

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body for the backend."""
        asked = chat_request(body, dropping := Dropping())
        self.dropped = dropping.names
        return asked

    def whole(self, body: bytes) -> bytes:
        """A completion as a response: what its events would have become."""
        answer = msgspec.json.decode(body, type=dict[str, Any])
        choice = answer["choices"][0]
        said = choice.get("message") or {}
        calls = [call | {"index": at} for at, call in enumerate(said.get("tool_calls") or ())]
        self._stream.begin(answer.get("model"))
        self._add(said | {"tool_calls": calls}, choice)
        self._stream.end(str(choice.get("finish_reason")), answer.get("usage"))
        return msgspec.json.encode(self._stream.response)

    def event(self, frame: bytes) -> bytes:
        """One chunk as events; `[DONE]` as those that close the response."""
        data = frame_data(frame)
        if data is None:
            return b""
        if data.strip() == b"[DONE]":
            self._stream.end(self._finish, self._usage)
            return self._stream.take()
        chunk = msgspec.json.decode(data, type=dict[str, Any])
        self._stream.begin(chunk.get("model"))
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            self._add(choice.get("delta") or {}, choice)
            self._finish = choice.get("finish_reason") or self._finish
        return self._stream.take()

    def _add(self, said: dict[str, Any], choice: dict[str, Any]) -> None:
        if thought := thought_of(said):
            self._stream.say("reasoning_text", thought)
        if text := text_of(said.get("content")):
            self._stream.say("output_text", text, logprobs_of(choice))
        if refusal := text_of(said.get("refusal")):
            self._stream.say("refusal", refusal)
        for call in said.get("tool_calls") or ():
            self._tool(call)

    def _tool(self, call: dict[str, Any]) -> None:
        number, function = call.get("index") or 0, call.get("function") or {}
        if number > self._call:
            self._call = number
            self._stream.call(call.get("id") or new_id("call_"), function.get("name") or "")
        elif number < self._call or not self._stream.calling:
            raise StreamBrokenError("the backend mixed the arguments of several calls")
        if arguments := function.get("arguments"):
            self._stream.arguments(arguments)
