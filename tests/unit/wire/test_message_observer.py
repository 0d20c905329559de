"""What is read of an Anthropic answer in passing, public bugs of other gateways included."""

from typing import Any

import msgspec
import pytest

from fungible.errors import StreamBrokenError, UnavailableError, UpstreamBusyError, UpstreamError
from fungible.wire.messages import (
    CountObserver,
    MessageObserver,
    anthropic_error,
    anthropic_error_event,
)
from fungible.wire.observer import Seen
from support.wire_events import bodies, message_events, typed

START = {
    "input_tokens": 10,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 50,
    "output_tokens": 1,
}


def read(events: list[bytes]) -> MessageObserver:
    seen = MessageObserver()
    ends = [seen.event(event) for event in events]
    assert Seen.END not in ends[:-1]
    assert ends[-1] is Seen.END
    return seen


def leaves(seen: Any) -> tuple[int | None, ...]:
    usage = seen.usage
    return (usage.in_uncached, usage.in_cache_read, usage.in_cache_write, usage.out_visible)


def test_a_stream() -> None:
    seen = read(message_events(start=START, end={"output_tokens": 7}))
    assert (seen.chars, seen.finish_reason) == (5, "end_turn")
    assert (leaves(seen), seen.usage.source) == ((10, 100, 50, 7), "provider_final")
    assert seen.first_token_ns is not None


def test_envoy_2236_cumulative_cache_tokens_are_not_added_twice() -> None:
    end = START | {"output_tokens": 7}
    assert leaves(read(message_events(start=START, end=end))) == (10, 100, 50, 7)


def test_envoy_2239_a_later_count_replaces_an_earlier_one() -> None:
    end = {"input_tokens": 12, "cache_read_input_tokens": 98, "output_tokens": 7}
    assert leaves(read(message_events(start=START, end=end))) == (12, 98, 50, 7)


@pytest.mark.parametrize("end", [None, {"output_tokens": None}, {"output_tokens": 1}])
def test_usage_at_the_start_alone_is_used(end: dict[str, Any] | None) -> None:
    assert leaves(read(message_events(start=START, end=end))) == (10, 100, 50, 1)


def test_usage_at_the_end_alone_is_used() -> None:
    assert leaves(read(message_events(end=START))) == (10, 100, 50, 1)


def test_missing_usage_stays_unknown() -> None:
    assert read(message_events()).usage.source == "none"
    assert read(message_events(end={"output_tokens": 7})).usage.source == "none"


def test_a_cut_stream_leaves_the_start_as_partial() -> None:
    seen = MessageObserver()
    for event in message_events(start=START)[:3]:
        seen.event(event)
    assert (leaves(seen), seen.usage.source) == ((10, 100, 50, 1), "provider_partial")


def test_envoy_2549_a_ping_is_no_chunk() -> None:
    seen = MessageObserver()
    for ping in (typed({"type": "ping"}), b"event: ping\n\n", b": ping\n\n", b"data:\n\n"):
        assert seen.event(ping) is Seen.SHOW
    assert not seen.begun
    assert seen.first_token_ns is None


def test_envoy_2470_data_without_a_space_and_crlf() -> None:
    plain = message_events(start=START, end={"output_tokens": 7})
    for other in (
        [event.replace(b"data: ", b"data:") for event in plain],
        [event.replace(b"\n", b"\r\n") for event in plain],
    ):
        seen = read(other)
        assert (seen.output_hash, leaves(seen)) == (read(plain).output_hash, (10, 100, 50, 7))


def test_unknown_events_pass_whatever_they_hold() -> None:
    seen = MessageObserver()
    assert seen.event(typed({"type": "later_version", "delta": "text", "message": 3})) is Seen.SHOW
    assert not seen.begun


def test_thinking_is_a_first_token_and_counted_apart() -> None:
    seen = MessageObserver()
    delta = {"type": "thinking_delta", "thinking": "hm"}
    seen.event(typed({"type": "content_block_delta", "index": 0, "delta": delta}))
    assert seen.first_token_ns is not None
    assert seen.chars == 0
    counts = START | {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}
    seen.event(typed({"type": "message_delta", "delta": {}, "usage": counts}))
    assert (seen.usage.out_visible, seen.usage.out_reasoning) == (5, 4)


def test_a_tool_call_is_hashed_by_name_and_arguments() -> None:
    seen = MessageObserver()
    block = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    seen.event(typed({"type": "content_block_start", "index": 0, "content_block": block}))
    for part in ('{"a"', ":1}"):
        delta = {"type": "input_json_delta", "partial_json": part}
        seen.event(typed({"type": "content_block_delta", "index": 0, "delta": delta}))
    whole = MessageObserver()
    whole.whole(msgspec.json.encode({"content": [block | {"input": {"a": 1}}]}))
    assert seen.output_hash == whole.output_hash


@pytest.mark.parametrize(
    "event",
    [
        typed({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        b"data: {no\n\n",
        b"data: []\n\n",
        b'data: {"type": "message_delta", "delta": 3}\n\n',
    ],
)
def test_errors_break_the_stream(event: bytes) -> None:
    with pytest.raises(StreamBrokenError, match=r"Overloaded|not JSON"):
        MessageObserver().event(event)


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"type": "error", "error": {"message": "x"}}'])
def test_an_answer_that_is_none(body: bytes) -> None:
    for observer in (MessageObserver(), CountObserver()):
        with pytest.raises(UpstreamError):
            observer.whole(body)


@pytest.mark.parametrize("body", [b'{"input_tokens": 9}', b'{"count": 9, "tokens": [1]}'])
def test_counting_uses_no_tokens(body: bytes) -> None:
    seen = CountObserver()
    seen.whole(body)
    assert (leaves(seen), seen.usage.source) == ((0, 0, 0, 0), "provider_final")


def test_errors_are_anthropics() -> None:
    body = anthropic_error(UpstreamBusyError("full", hint="wait"))
    error = {"type": "rate_limit_error", "message": "full hint: wait"}
    assert body == {"type": "error", "error": error}
    assert anthropic_error(UnavailableError("x"))["error"]["type"] == "overloaded_error"
    event = anthropic_error_event(StreamBrokenError("cut"))
    assert event.startswith(b"event: error\n")
    assert bodies(event)[0]["error"] == {"type": "api_error", "message": "cut"}
