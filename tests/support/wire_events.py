"""Events of the wire formats as servers write them."""

from typing import Any

import msgspec

from fungible.contract.sse import frame_data, split_frames


def typed(body: dict[str, Any]) -> bytes:
    """One event whose name is its type, as Anthropic and Responses have them."""
    return b"event: " + body["type"].encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"


def bare(body: dict[str, Any]) -> bytes:
    """One event without a name, as chat has them."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def bodies(stream: bytes) -> list[dict[str, Any]]:
    """The JSON of every event but `[DONE]`."""
    found = [frame_data(frame) for frame in split_frames(stream)]
    return [msgspec.json.decode(one) for one in found if one and one != b"[DONE]"]


def message_events(
    text: str = "Grüße", start: dict[str, Any] | None = None, end: dict[str, Any] | None = None
) -> list[bytes]:
    """A message of one text block; `start` and `end` are its two usage objects."""
    head = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "c"}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
    delta = {"type": "text_delta", "text": text}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": head | ({"usage": start} if start else {})},
        block,
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        | ({"usage": end} if end else {}),
        {"type": "message_stop"},
    ]
    return [typed(event) for event in events]
