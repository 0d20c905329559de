"""Server-sent events (WHATWG HTML, section 9.2), as much as the OpenAI contract uses."""

from collections.abc import Iterator

DONE = b"data: [DONE]\n\n"
_LF, _SPACE = b"\n "


class EventBuffer:
    """Hands on a byte stream as far as it holds whole events, without cutting them apart.

    `rest` holds what has no closing blank line yet; it is not empty after a cut stream.
    """

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """The whole events there are now; none or more."""
        buffer = self.rest + chunk if self.rest else chunk
        if buffer.endswith(b"\n\n"):
            self.rest = b""
            return buffer
        marks = (b"\n\n", b"\r\n\r\n")
        end = max(at + len(mark) if (at := buffer.rfind(mark)) >= 0 else 0 for mark in marks)
        self.rest = buffer[end:]
        return buffer[:end]

    def last(self) -> bytes:
        """What the stream ended with: some servers leave out the blank line after it."""
        rest, self.rest = self.rest, b""
        return b"" if frame_data(rest) is None else rest + b"\n\n"


def _cut(buffer: bytes) -> Iterator[bytes]:
    start = 0
    while True:
        ends = [
            at + len(mark)
            for mark in (b"\n\n", b"\r\n\r\n")
            if (at := buffer.find(mark, start)) >= 0
        ]
        if not ends:
            return
        end = min(ends)
        yield buffer[start:end]
        start = end


def split_frames(chunk: bytes) -> list[bytes]:
    """The events of `chunk`, which holds one or more whole ones."""
    if b"\r\n\r\n" in chunk:
        return list(_cut(chunk))
    if chunk.find(b"\n\n") == len(chunk) - 2 >= 0:
        return [chunk]  # nearly always
    return [event + b"\n\n" for event in chunk.split(b"\n\n")[:-1]]


def frame_data(frame: bytes) -> bytes | None:
    """The `data` of one event (lines joined by newline), or `None` for comments and the like."""
    if frame.find(b"\n") == len(frame) - 2 and frame.startswith(b"data:") and frame[-1] == _LF:
        data = frame[6:-2] if frame[5] == _SPACE else frame[5:-2]  # nearly always
        return data.removesuffix(b"\r")
    lines = [
        line[5:].removeprefix(b" ")
        for line in frame.replace(b"\r\n", b"\n").split(b"\n")
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None


def encode_frame(data: bytes) -> bytes:
    """`data` (one line of JSON) as one event."""
    return b"data: " + data + b"\n\n"


def encode_event(name: str, data: bytes) -> bytes:
    """`data` (one line of JSON) as one event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
