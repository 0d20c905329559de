"""Completions and embeddings in passing; requests of every format, checked by field."""

import msgspec
import pytest

from fungible.contract.inference import Endpoint
from fungible.errors import RequestError, StreamBrokenError, UpstreamConnectError
from fungible.wire.completions import CompletionObserver
from fungible.wire.embeddings import EmbeddingObserver
from fungible.wire.formats import FORMATS
from fungible.wire.observer import Seen
from support.wire_events import bare

COUNTS = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def test_a_stream_of_completions() -> None:
    seen = CompletionObserver()
    choice = {"index": 0, "text": "Grü", "logprobs": {"tokens": ["Grü"]}, "finish_reason": None}
    assert seen.event(b": ping\n\n") is Seen.SHOW
    assert seen.event(bare({"choices": [choice | {"text": ""}]})) is Seen.SHOW
    assert seen.first_token_ns is None
    assert seen.event(bare({"choices": [choice]}).replace(b"data: ", b"data:")) is Seen.SHOW
    assert seen.first_token_ns is not None
    last = {"index": 0, "text": "ße", "finish_reason": "length"}
    seen.event(bare({"choices": [last]}).replace(b"\n", b"\r\n"))
    for _ in range(2):  # some servers say it twice
        assert seen.event(bare({"choices": [], "usage": COUNTS})) is Seen.HIDE
    assert seen.event(b"data: [DONE]\n\n") is Seen.END
    assert (seen.chars, seen.finish_reason) == (5, "length")
    assert (seen.usage.in_uncached, seen.usage.out_visible) == (10, 4)
    whole = CompletionObserver()
    whole.whole(msgspec.json.encode({"choices": [last | {"text": "Grüße"}], "usage": COUNTS}))
    assert (whole.output_hash, whole.usage) == (seen.output_hash, seen.usage)


def test_a_broken_completion() -> None:
    for event in (bare({"error": {"message": "x"}}), b"data: {no\n\n"):
        with pytest.raises(StreamBrokenError):
            CompletionObserver().event(event)
    for body in (b"{}", b"[", b'{"error": "x", "choices": []}'):
        with pytest.raises(UpstreamConnectError):
            CompletionObserver().whole(body)


@pytest.mark.parametrize("vector", [[0.5, -1.0], "AAAAPwAAgL8="])
def test_embeddings_count_their_input(vector: object) -> None:
    seen = EmbeddingObserver()
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    item = {"object": "embedding", "index": 0, "embedding": vector}
    seen.whole(msgspec.json.encode({"object": "list", "data": [item], "usage": usage}))
    assert (seen.usage.in_uncached, seen.usage.out_visible) == (9, 0)
    assert (seen.usage.source, seen.output_hash) == ("provider_final", "")


@pytest.mark.parametrize("body", [b"{}", b"[", b'{"data": []}', b'{"error": {"message": "x"}}'])
def test_an_embedding_that_is_none(body: bytes) -> None:
    with pytest.raises(UpstreamConnectError):
        EmbeddingObserver().whole(body)
    with pytest.raises(StreamBrokenError):
        EmbeddingObserver().event(body)


HELLO = [{"role": "user", "content": "hi"}]
GOOD: dict[Endpoint, dict[str, object]] = {
    "chat/completions": {"model": "m", "messages": HELLO, "n": 2},
    "completions": {"model": "m", "prompt": [[1, 2], [3]], "echo": True, "logprobs": 2},
    "embeddings": {"model": "m", "input": ["a", "b"], "encoding_format": "base64"},
    "responses": {"model": "m", "input": "hi", "instructions": None},
    "messages": {"model": "m", "max_tokens": 5, "messages": HELLO, "system": "s"},
    "messages/count_tokens": {"model": "m", "messages": HELLO},
}


@pytest.mark.parametrize("endpoint", GOOD)
def test_a_request_is_read_and_keeps_its_unknown_fields(endpoint: Endpoint) -> None:
    body = GOOD[endpoint] | {"x_unknown": {"a": [1, None]}}
    asked = FORMATS[endpoint].read(msgspec.json.encode(body))
    assert (asked.model, asked.stream, asked.body) == ("m", False, body)


@pytest.mark.parametrize(
    ("endpoint", "wrong", "param"),
    [
        ("chat/completions", {"n": 129}, "n"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"logprobs": 21}, "logprobs"),
        ("embeddings", {"stream": True}, "stream"),
        ("embeddings", {"input": ["a", ""]}, "input[1]"),
        ("embeddings", {"encoding_format": "hex"}, "encoding_format"),
        ("responses", {"input": []}, "input"),
        ("responses", {"temperature": 2.1}, "temperature"),
        ("responses", {"tools": [3]}, "tools[0]"),
        ("messages", {"max_tokens": None}, "max_tokens"),
        ("messages", {"max_tokens": 0}, "max_tokens"),
        ("messages", {"temperature": 1.5}, "temperature"),
        ("messages", {"messages": []}, "messages"),
        ("messages", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ("messages/count_tokens", {"messages": []}, "messages"),
    ],
)
def test_a_malformed_field_is_named(
    endpoint: Endpoint, wrong: dict[str, object], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        FORMATS[endpoint].read(msgspec.json.encode(GOOD[endpoint] | wrong))
    assert caught.value.param == param
