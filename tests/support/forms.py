"""How a test asks in each wire format, and what it reads out of answers."""

from typing import Any

import msgspec

from fungible.contract.inference import Endpoint
from fungible.contract.sse import frame_data


def decoded(frames: list[bytes]) -> list[dict[str, Any]]:
    """The JSON of events, `[DONE]` left out."""
    data = [frame_data(frame) or b"" for frame in frames]
    return [msgspec.json.decode(one) for one in data if one and one.strip() != b"[DONE]"]


class ChatForm:
    """`chat/completions`: usage of a stream only when asked for."""

    endpoint: Endpoint = "chat/completions"
    always_counts = False

    def body(self, *, stream: bool, usage: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": usage}}
        return body

    def text(self, answer: dict[str, Any]) -> str:
        return str(answer["choices"][0]["message"]["content"])

    def count(self, answer: dict[str, Any]) -> int:
        return int(answer["usage"]["completion_tokens"])

    def stream_text(self, frames: list[bytes]) -> str:
        deltas = [one["choices"][0]["delta"] for one in decoded(frames) if one["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    def stream_counts(self, frames: list[bytes]) -> list[int]:
        return [self.count(one) for one in decoded(frames) if one.get("usage")]

    def ended(self, frames: list[bytes]) -> bool:
        return frame_data(frames[-1]) == b"[DONE]"


class MessagesForm:
    """`messages`: usage comes without asking."""

    endpoint: Endpoint = "messages"
    always_counts = True

    def body(self, *, stream: bool, usage: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        return body | {"max_tokens": 9} | ({"stream": True} if stream else {})

    def text(self, answer: dict[str, Any]) -> str:
        return "".join(block["text"] for block in answer["content"])

    def count(self, answer: dict[str, Any]) -> int:
        return int(answer["usage"]["output_tokens"])

    def stream_text(self, frames: list[bytes]) -> str:
        deltas = [one for one in decoded(frames) if one["type"] == "content_block_delta"]
        return "".join(one["delta"]["text"] for one in deltas)

    def stream_counts(self, frames: list[bytes]) -> list[int]:
        ends = [one for one in decoded(frames) if one["type"] == "message_delta"]
        return [self.count(one) for one in ends if one.get("usage")]

    def ended(self, frames: list[bytes]) -> bool:
        return decoded(frames)[-1]["type"] == "message_stop"


Form = ChatForm | MessagesForm
