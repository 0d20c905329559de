"""An HTTP answer as it comes in, whoever gives it."""

from typing import Any

import msgspec

from fungible.contract.sse import frame_data, split_frames


class Answered:
    """Status, headers and body of one answer.

    Attributes:
        chunks: Pieces of the body as they were sent.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def events(self) -> list[Any]:
        """Server-sent events, decoded; `[DONE]` stays a string."""
        data = [frame_data(frame) for frame in split_frames(self.body)]
        return ["[DONE]" if one == b"[DONE]" else msgspec.json.decode(one or b"") for one in data]
