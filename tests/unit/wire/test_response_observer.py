"""What is read of a Responses answer in passing, public bugs of other gateways included."""

from typing import Any

import msgspec
import pytest

from fungible.errors import StreamBrokenError, UpstreamConnectError
from fungible.wire.observer import Seen
from fungible.wire.responses import ResponseObserver, responses_error_event
from support.wire_events import bodies, typed

USAGE = {
    "input_tokens": 30,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 5},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 39,
}
TEXT = {"type": "response.output_text.delta", "delta": "Grüße"}


def end(kind: str, **fields: Any) -> bytes:
    status = kind.removeprefix("response.")
    number = (
        {"sequence_number": fields.pop("sequence_number")} if "sequence_number" in fields else {}
    )
    return typed({"type": kind, "response": {"status": status, "usage": USAGE} | fields} | number)


def counts(seen: ResponseObserver) -> tuple[int | None, ...]:
    usage = seen.usage
    read, wrote = usage.in_cache_read, usage.in_cache_write
    return (usage.in_uncached, read, wrote, usage.out_visible, usage.out_reasoning)


def test_a_stream() -> None:
    seen = ResponseObserver()
    assert seen.event(typed({"type": "response.created", "response": {"id": "r"}})) is Seen.SHOW
    assert seen.first_token_ns is None
    assert seen.event(typed(TEXT)) is Seen.SHOW
    assert seen.first_token_ns is not None
    assert seen.event(end("response.completed")) is Seen.END
    assert (seen.chars, seen.finish_reason) == (5, "completed")
    assert (counts(seen), seen.usage.source) == ((15, 10, 5, 5, 4), "provider_final")


def test_envoy_2184_an_incomplete_response_is_billed() -> None:
    seen = ResponseObserver()
    why = {"incomplete_details": {"reason": "max_output_tokens"}}
    assert seen.event(end("response.incomplete", **why)) is Seen.END
    assert (counts(seen), seen.finish_reason) == ((15, 10, 5, 5, 4), "max_output_tokens")


def test_envoy_2184_a_failed_response_is_billed_and_breaks_the_stream() -> None:
    seen = ResponseObserver()
    with pytest.raises(StreamBrokenError, match="no capacity"):
        seen.event(end("response.failed", error={"code": "x", "message": "no capacity"}))
    assert counts(seen) == (15, 10, 5, 5, 4)


def test_data_without_a_space_crlf_comments_and_unknown_events() -> None:
    seen = ResponseObserver()
    for event in (b": keep-alive\n\n", b"data: [DONE]\n\n", b"event: ping\n\n"):
        assert seen.event(event) is Seen.SHOW
    foreign = {"type": "response.later", "item": "x", "response": [], "delta": {"a": 1}}
    assert seen.event(typed(foreign)) is Seen.SHOW
    assert not seen.begun
    seen.event(typed(TEXT).replace(b"data: ", b"data:").replace(b"\n", b"\r\n"))
    assert seen.chars == 5


def test_missing_usage_stays_unknown() -> None:
    seen = ResponseObserver()
    assert seen.event(end("response.completed", usage=None)) is Seen.END
    assert seen.usage.source == "none"


def test_a_whole_answer_hashes_as_its_stream() -> None:
    seen, whole = ResponseObserver(), ResponseObserver()
    call = {"type": "function_call", "name": "f", "arguments": ""}
    seen.event(typed(TEXT))
    seen.event(typed({"type": "response.output_item.added", "item": call}))
    seen.event(typed({"type": "response.function_call_arguments.delta", "delta": '{"a":1}'}))
    output = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "Grüße"}]},
        call | {"arguments": '{"a":1}'},
    ]
    body = {"status": "completed", "output": output, "usage": USAGE}
    whole.whole(msgspec.json.encode(body))
    assert whole.output_hash == seen.output_hash
    assert counts(whole) == (15, 10, 5, 5, 4)


@pytest.mark.parametrize(
    "event",
    [
        typed({"type": "error", "code": "x", "message": "no capacity", "param": None}),
        typed({"type": "error", "error": {"message": "no capacity"}}),
        b'data: {"error": {"message": "no capacity"}}\n\n',
        b"data: {no\n\n",
    ],
)
def test_errors_break_the_stream(event: bytes) -> None:
    with pytest.raises(StreamBrokenError, match=r"no capacity|not JSON"):
        ResponseObserver().event(event)


@pytest.mark.parametrize(
    "body", [b"[", b"{}", b'{"error": {"message": "x"}}', b'{"status": "failed", "output": []}']
)
def test_an_answer_that_is_none(body: bytes) -> None:
    with pytest.raises(UpstreamConnectError):
        ResponseObserver().whole(body)


def test_an_error_event_has_the_documented_fields() -> None:
    (body,) = bodies(responses_error_event(StreamBrokenError("cut")))
    assert (body["type"], body["code"], body["message"]) == ("error", "stream_broken", "cut")


def test_an_error_continues_the_numbering_that_was_shown() -> None:
    seen = ResponseObserver()
    assert seen.number == 0
    for number in (0, 1, 2):
        seen.event(typed(TEXT | {"sequence_number": number}))
    seen.event(b": ping\n\n")
    assert seen.number == 3
    # The end is withheld until its row is written, so it has not been shown yet.
    seen.event(end("response.completed", sequence_number=3))
    assert seen.number == 3
    (body,) = bodies(responses_error_event(StreamBrokenError("cut"), seen.number))
    assert body["sequence_number"] == 3
    assert bodies(responses_error_event(StreamBrokenError("cut")))[0]["sequence_number"] == 0


def test_a_hidden_error_of_the_backend_has_no_number_for_the_client() -> None:
    seen = ResponseObserver()
    seen.event(typed(TEXT | {"sequence_number": 7}))
    with pytest.raises(StreamBrokenError):
        seen.event(typed({"type": "error", "message": "x", "sequence_number": 8}))
    assert seen.number == 8
