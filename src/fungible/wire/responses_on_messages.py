"""OpenAI's Responses from an Anthropic backend: by way of chat, both times."""

from typing import Any

import msgspec

from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.contract.sse import split_frames
from fungible.wire.chat_on_messages.bridge import ChatOnMessages
from fungible.wire.responses_on_chat.bridge import ResponsesOnChat


class ResponsesOnMessages:
    """One attempt."""

    endpoint: Endpoint = "messages"

    def __init__(self, request: InferenceRequest) -> None:
        self.dropped: tuple[str, ...] = ()
        self._outer = ResponsesOnChat(request)
        # A response always reports its counts, so the chat stream in between has to.
        between = {"stream_options": {"include_usage": True}}
        self._inner = ChatOnMessages(msgspec.structs.replace(request, body=between))

    @property
    def number(self) -> int:
        """Of the next event."""
        return self._outer.number

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body for the backend."""
        asked = self._inner.request(self._outer.request(body))
        self.dropped = self._outer.dropped + self._inner.dropped
        return asked

    def whole(self, body: bytes) -> bytes:
        """A message as a response."""
        return self._outer.whole(self._inner.whole(body))

    def event(self, frame: bytes) -> bytes:
        """One event of a message as events of a response."""
        chunks = self._inner.event(frame)
        return b"".join(self._outer.event(chunk) for chunk in split_frames(chunks))
