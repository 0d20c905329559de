"""Events that resemble an earlier one are read without parsing them; that must not show."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.errors import StreamBrokenError
from fungible.wire import chat
from fungible.wire.chat import ChatObserver
from fungible.wire.observer import Seen


def frame(content: object, *, spaces: bool = False, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    fields: dict[str, Any] = {"id": "chatcmpl-1", "choices": [choice | more.pop("choice", {})]}
    separators = None if spaces else (",", ":")
    said = json.dumps(fields | more, separators=separators, ensure_ascii=False)
    return b"data: " + said.encode("utf-8", "surrogatepass") + b"\n\n"


def shown(seen: ChatObserver, event: bytes, *, short: bool = True) -> Seen:
    return Seen.SHOW if short and seen.again(event) else seen.event(event)


def read(frames: list[bytes], *, short: bool) -> tuple[object, ...]:
    seen = ChatObserver()
    told: list[object] = []
    for one in frames:
        try:
            told.append(shown(seen, one, short=short))
        except StreamBrokenError:
            told.append("broken")
    facts = (seen.chars, seen.pieces, seen.output_hash, seen.finish_reason, seen.usage.source)
    return (*told, *facts, seen.begun, seen.first_token_ns is None)


texts = st.one_of(st.text(max_size=8), st.sampled_from(['"', "\\", "\n", "\x00", "é", "中", ""]))
events = st.one_of(
    texts.map(frame),
    texts.map(lambda text: frame(text, spaces=True)),
    texts.map(lambda text: frame(text, usage=None)),
    texts.map(lambda text: frame(text, id=text)),
    st.sampled_from(
        [
            frame("x", usage={"prompt_tokens": 1, "completion_tokens": 2}),
            frame("x", error={"message": "no"}),
            frame("x", choice={"finish_reason": "stop"}),
            frame(None),
            frame([1]),
            b"data: [DONE]\n\n",
            b": comment\n\n",
            b"event: message\n" + frame("x"),
            b"event: message\n" + frame("y"),
            frame("x")[:-2] + b"\r\n\r\n",
            frame("y")[:-2] + b"\r\n\r\n",
            frame("x", choice={"index": 1}),
            # Not JSON, although it begins and ends as others do.
            frame("x").replace(b'"x"', b'"\xff"'),
            frame("x").replace(b'"x"', b'"\t"'),
            frame("x").replace(b'"x"', b'"\\q"'),
            frame("x").replace(b'"x"', b'"x","refusal":"y"'),
            frame("x").replace(b'"x"', b'""x""'),
            frame("x").replace(b'"x"', b'"'),
        ]
    ),
)


@given(st.lists(events, max_size=12))
def test_it_reads_what_parsing_reads(frames: list[bytes]) -> None:
    assert read(frames, short=True) == read(frames, short=False)


def test_what_resembles_an_earlier_one_is_not_parsed() -> None:
    seen = ChatObserver()
    assert not seen.again(frame("one"))
    assert seen.event(frame("one")) is Seen.SHOW
    assert seen.again(frame(" two"))
    assert seen.again(frame(" drei ß"))
    for other in ('"', "\n", "\\", ""):
        assert not seen.again(frame(other))
    assert not seen.again(frame("two") + frame("at once"))
    assert (seen.chars, seen.pieces) == (14, 3)


def test_a_field_of_the_same_name_is_no_example() -> None:
    for more in ({"usage": None, "x": {"content": "no"}}, {"id": '"content":"no"'}):
        first = json.dumps({**more, "choices": [{"delta": {"content": "yes"}}]})
        frames = [b"data: " + first.replace(": ", ":").encode() + b"\n\n"]
        frames.append(frames[0].replace(b'"no"', b'"on"'))
        frames.append(frames[0].replace(b'"yes"', b'"sey"'))
        assert read(frames, short=True) == read(frames, short=False)


def test_a_server_whose_events_all_differ_is_soon_not_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lessons = 0
    only_text = chat._only_text

    def counted(event: bytes) -> str | None:
        nonlocal lessons
        lessons += 1
        return only_text(event)

    monkeypatch.setattr(chat, "_only_text", counted)
    seen = ChatObserver()
    for at in range(100):
        shown(seen, frame("x", id=str(at)))
    assert lessons == 4
    # One that changes now and then is worth it each time.
    seen, lessons = ChatObserver(), 0
    for at in range(200):
        shown(seen, frame("x", created=at // 20))
    assert lessons == 10
