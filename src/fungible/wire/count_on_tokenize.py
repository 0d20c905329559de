"""Anthropic's token counter from a server with vLLM's `/tokenize`, which counts exactly."""

from typing import Any

import msgspec

from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.wire.dropping import Dropping
from fungible.wire.messages_on_chat.request import chat_request


class CountOnTokenize:
    """One attempt. What is counted is the prompt as the model's own chat template renders it."""

    endpoint: Endpoint = "tokenize"
    number = 0

    def __init__(self, request: InferenceRequest) -> None:
        self._model = request.model
        self.dropped: tuple[str, ...] = ()

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The turns and the tools; the rest of a request is not part of its prompt."""
        asked = chat_request(body, dropping := Dropping())
        self.dropped = dropping.names
        return {name: asked[name] for name in ("model", "messages", "tools") if name in asked}

    def whole(self, body: bytes) -> bytes:
        """The count."""
        count = msgspec.json.decode(body, type=dict[str, Any])["count"]
        return msgspec.json.encode({"input_tokens": count})

    def event(self, frame: bytes) -> bytes:
        """Counts are not streamed."""
        return frame
