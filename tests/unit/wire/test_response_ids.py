"""An answer's id: kept as the upstream gave it, and made of the request's where we translate."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fungible.contract.inference import Endpoint, InferenceRequest
from fungible.wire.bridge import BRIDGES
from fungible.wire.formats import FORMATS
from support.wire_answers import Answer
from support.wire_events import bare, bodies, message_events, typed

REQUEST = f"req_{1:032x}"
MESSAGE: dict[str, Any] = {"type": "message", "content": [{"type": "text", "text": "hi"}]}
CHOICE = {"index": 0, "message": {"content": "hi"}, "text": "hi", "finish_reason": "stop"}
WHOLE: dict[Endpoint, dict[str, Any]] = {
    "chat/completions": {"choices": [CHOICE]},
    "completions": {"choices": [CHOICE]},
    "responses": {"status": "completed", "output": []},
    "messages": MESSAGE,
}
STREAMS: dict[Endpoint, list[bytes]] = {
    "chat/completions": [
        bare({"id": "msg_1", "choices": [{"delta": {"role": "assistant"}}]}),
        bare({"id": "msg_2", "choices": [{"delta": {"content": "hi"}}]}),
    ],
    "completions": [bare({"id": "msg_1", "choices": [{"text": "hi"}]})],
    "responses": [typed({"type": "response.created", "response": {"id": "msg_1"}})],
    "messages": message_events(),
}


@pytest.mark.parametrize("endpoint", WHOLE)
@pytest.mark.parametrize(
    ("given", "kept"), [("msg_1", "msg_1"), (None, ""), (7, ""), ("x" * 999, "x" * 200)]
)
def test_the_id_of_a_whole_answer(endpoint: Endpoint, given: object, kept: str) -> None:
    observer = FORMATS[endpoint].observer()
    observer.whole(msgspec.json.encode({"id": given} | WHOLE[endpoint]))
    assert observer.response_id == kept


@pytest.mark.parametrize("endpoint", STREAMS)
def test_the_id_of_a_stream_is_there_before_its_end(endpoint: Endpoint) -> None:
    observer = FORMATS[endpoint].observer()
    for event in STREAMS[endpoint][:-1] or STREAMS[endpoint]:
        observer.event(event)
    assert observer.response_id == "msg_1"


def upstream(spoken: Endpoint) -> tuple[bytes, list[bytes]]:
    if spoken == "messages":
        body = MESSAGE | {"id": "msg_1", "model": "m", "stop_reason": "end_turn"}
        return msgspec.json.encode(body), message_events()
    answer = Answer(text="hi", calls=[], fresh=1, cached=0, out=1, cut=False)
    return answer.completion(), [*STREAMS["chat/completions"], b"data: [DONE]\n\n"]


@pytest.mark.parametrize(
    ("pair", "prefix"),
    [
        (("chat/completions", "messages"), "chatcmpl-"),
        (("messages", "chat/completions"), "msg_"),
        (("responses", "chat/completions"), "resp_"),
        (("responses", "messages"), "resp_"),
    ],
)
def test_translated_answers_carry_the_id_of_the_request(
    pair: tuple[Endpoint, Endpoint], prefix: str
) -> None:
    request = InferenceRequest(
        request_id=REQUEST, model="m", endpoint=pair[0], body={"messages": [], "input": "x"}
    )
    make: Callable[[InferenceRequest], Any] = BRIDGES[pair]
    whole, stream = upstream(pair[1])
    assert msgspec.json.decode(make(request).whole(whole))["id"] == prefix + REQUEST
    bridge = make(request)
    events = bodies(b"".join(bridge.event(event) for event in stream))
    heads = (one.get("message") or one.get("response") or one for one in events)
    assert next(one["id"] for one in heads if "id" in one) == prefix + REQUEST
