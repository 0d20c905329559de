"""The data of one event, however its lines end: the short way agrees with the rule."""

from hypothesis import given
from hypothesis import strategies as st

from fungible.contract.sse import frame_data


def by_the_rule(frame: bytes) -> bytes | None:
    lines = frame.replace(b"\r\n", b"\n").split(b"\n")
    data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(data) if data else None


PIECES = [b"data:", b"data: ", b"event: x", b": c", b"\n", b"\r\n", b"\r", b"{}", b" ", b"a"]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join))
def test_the_data_of_an_event_is_what_the_rule_says(inside: bytes) -> None:
    for frame in (inside, b"data: " + inside + b"\n\n", inside + b"\r\n\r\n"):
        assert frame_data(frame) == by_the_rule(frame)
