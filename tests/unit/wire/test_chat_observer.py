"""What is read of an answer in passing: counts and hashes, and when it began."""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.contract.inference import usage_from_openai
from fungible.errors import StreamBrokenError, UpstreamConnectError
from fungible.wire.chat import ChatObserver


def data(delta: dict[str, Any] | None = None, **fields: Any) -> bytes:
    choices = [] if delta is None else [{"delta": delta, "finish_reason": fields.pop("end", None)}]
    return msgspec.json.encode({"choices": choices, **fields})


COUNTS = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def test_text_is_hashed_and_counted_but_not_kept() -> None:
    seen = ChatObserver()
    for part in ("Grü", "ße", ""):
        assert not seen.chunk(data({"content": part}))
    seen.chunk(data({}, end="length"))
    assert (seen.chars, seen.finish_reason) == (5, "length")
    assert seen.output_hash == hashlib.sha256("Grüße".encode()).hexdigest()[:16]
    whole = ChatObserver()
    whole.whole(b'{"choices": [{"message": {"content": "Gr\\u00fc\\u00dfe"}}]}')
    assert whole.output_hash == seen.output_hash
    assert "Gr" not in str(vars(seen))


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"function_call": {"name": "f"}},
    ],
)
def test_whatever_a_client_waits_for_is_a_first_token(delta: dict[str, Any]) -> None:
    seen = ChatObserver()
    seen.chunk(data({"role": "assistant", "content": ""}))
    seen.chunk(data({"tool_calls": []}))
    assert seen.first_token_ns is None
    seen.chunk(data(delta))
    assert seen.first_token_ns is not None


def test_only_usage_at_the_end_is_final() -> None:
    seen = ChatObserver()
    assert seen.usage.source == "none"
    assert not seen.chunk(data({"content": "x"}, usage=COUNTS))
    assert seen.usage.source == "provider_partial"
    assert not seen.chunk(data({}, end="stop", usage=COUNTS))
    assert seen.usage.source == "provider_final"
    closing = ChatObserver()
    assert closing.chunk(data(None, usage=COUNTS))
    assert (closing.usage.source, closing.usage.in_uncached) == ("provider_final", 10)
    assert not closing.chunk(data(None))  # a comment-like chunk, as Azure's first


@pytest.mark.parametrize("event", [b"{no", b'"text"', b"\xff", b'{"choices": 3}', b"[]"])
def test_an_event_that_is_no_chunk_breaks_the_stream(event: bytes) -> None:
    with pytest.raises(StreamBrokenError, match="the backend sent"):
        ChatObserver().chunk(event)


@pytest.mark.parametrize("error", [{"message": "out of memory"}, "out of memory"])
def test_an_error_event_breaks_the_stream_with_its_words(error: object) -> None:
    with pytest.raises(StreamBrokenError, match="out of memory"):
        ChatObserver().chunk(msgspec.json.encode({"error": error}))


@pytest.mark.parametrize("body", [b"{}", b'{"error": {"message": "x"}}', b"[", b'{"choices": []}'])
def test_an_answer_that_is_none(body: bytes) -> None:
    with pytest.raises(UpstreamConnectError):
        ChatObserver().whole(body)


count = st.integers(0, 10**9)
junk = st.none() | st.text() | st.integers(-5, 10**10) | st.lists(st.integers()) | st.booleans()


@given(prompt=count, completion=count, cached=junk, reasoning=junk)
def test_leaves_sum_to_the_totals_whatever_the_details_say(
    prompt: int, completion: int, cached: Any, reasoning: Any
) -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    parts_in = (usage.in_uncached, usage.in_cache_read, usage.in_cache_write)
    parts_out = (usage.out_visible, usage.out_reasoning)
    assert all(part is not None and part >= 0 for part in parts_in + parts_out)
    assert sum(part or 0 for part in parts_in) == prompt
    assert sum(part or 0 for part in parts_out) == completion


@given(details=junk)
def test_details_of_any_shape_are_survived(details: Any) -> None:
    usage = usage_from_openai(COUNTS | {"prompt_tokens_details": details})
    assert usage.in_uncached == 10


@given(prompt=junk.filter(lambda one: not isinstance(one, int) or one < 0))
def test_counts_that_are_none_stay_unknown(prompt: Any) -> None:
    usage = usage_from_openai({"prompt_tokens": prompt, "completion_tokens": 1})
    assert (usage.in_uncached, usage.out_visible, usage.source) == (None, None, "none")
