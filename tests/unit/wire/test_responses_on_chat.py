"""Responses clients on chat and Anthropic backends: what can be said is kept, the rest named."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming as ChatParams,
)
from openai.types.responses import Response
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming as ResponseParams,
)

from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import split_frames
from fungible.errors import FungibleError, RequestError, StreamBrokenError, UnsupportedError
from fungible.wire.bridge import bridge_for
from fungible.wire.messages_on_chat.bridge import MessagesOnChat
from fungible.wire.responses import ResponseObserver
from fungible.wire.responses_on_chat.bridge import ResponsesOnChat
from fungible.wire.responses_on_messages import ResponsesOnMessages
from support.sdk_types import check_shape
from support.wire_answers import Answer, answers, chat_call, chat_streams, chunk, rebuilt_response
from support.wire_events import bare, bodies

HELLO: dict[str, Any] = {"model": "m", "input": "hi"}
DONE = b"data: [DONE]\n\n"


def request(**fields: Any) -> InferenceRequest:
    return InferenceRequest(request_id="r", model="m", endpoint="responses", body=HELLO | fields)


def asked(**fields: Any) -> dict[str, Any]:
    """What is sent for a request, both being what the SDK's types say."""
    check_shape(ResponseParams, HELLO | fields)
    sent = ResponsesOnChat(request()).request(HELLO | fields)
    check_shape(ChatParams, sent)
    return sent


def check(response: Response, answer: Answer) -> None:
    calls = [
        (item.call_id, item.name, msgspec.json.decode(item.arguments))
        for item in response.output
        if item.type == "function_call"
    ]
    assert (response.output_text, calls) == (answer.text, answer.calls)
    assert response.status == ("incomplete" if answer.finish == "length" else "completed")
    assert response.usage is not None
    assert response.usage.input_tokens == answer.fresh + answer.cached
    assert response.usage.input_tokens_details.cached_tokens == answer.cached
    assert response.usage.output_tokens == answer.out


@given(answer=answers)
def test_a_whole_answer(answer: Answer) -> None:
    body = ResponsesOnChat(request()).whole(answer.completion())
    check(Response.model_validate_json(body), answer)
    ResponseObserver().whole(body)


@given(made=chat_streams())
def test_a_stream_in_any_pieces(made: tuple[Answer, list[bytes]]) -> None:
    answer, frames = made
    through = ResponsesOnChat(request())
    stream = b"".join(through.event(frame) for frame in frames)
    check(rebuilt_response(stream), answer)


@given(made=chat_streams())
def test_by_way_of_messages(made: tuple[Answer, list[bytes]]) -> None:
    answer, frames = made
    message = MessagesOnChat(InferenceRequest(request_id="r", model="m", body={}))
    events = split_frames(b"".join(message.event(frame) for frame in frames))
    through = ResponsesOnMessages(request())
    check(rebuilt_response(b"".join(through.event(event) for event in events)), answer)
    whole = ResponsesOnMessages(request()).whole(message.whole(answer.completion()))
    check(Response.model_validate_json(whole), answer)


def test_the_order_of_events() -> None:
    through = ResponsesOnChat(request())
    call = {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}
    frames = [
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "yes"}),
        chunk({"tool_calls": [call]}),
        chunk({}, "tool_calls"),
        DONE,
    ]
    stream = b"".join(through.event(frame) for frame in frames)
    rebuilt_response(stream)
    opened = ["output_item.added", "content_part.added"]
    closed = ["content_part.done", "output_item.done"]
    assert [event["type"].removeprefix("response.") for event in bodies(stream)] == [
        *("created", "in_progress"),
        *(*opened, "reasoning_text.delta", "reasoning_text.done", *closed),
        *(*opened, "output_text.delta", "output_text.done", *closed),
        "output_item.added",
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]


CONVERSATION: list[dict[str, Any]] = [
    {"role": "developer", "content": "kindly"},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "look"},
            {
                "type": "input_image",
                "image_url": "data:image/png;base64,A",
                "detail": "low",
            },
        ],
    },
    {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "so", "annotations": []}],
    },
    {"type": "function_call", "call_id": "t1", "name": "f", "arguments": "{}"},
    {"type": "function_call", "call_id": "t2", "name": "g", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "t1", "output": "rain"},
    {
        "type": "function_call_output",
        "call_id": "t2",
        "output": [{"type": "input_text", "text": "sun"}],
    },
]


def test_a_request_with_everything() -> None:
    schema = {"type": "object", "properties": {}}
    sent = asked(
        instructions="be brief",
        input=CONVERSATION,
        max_output_tokens=9,
        temperature=0.5,
        tools=[{"type": "function", "name": "f", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        reasoning={"effort": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        store=False,
        user="u",
    )
    url = {"url": "data:image/png;base64,A", "detail": "low"}
    assert sent["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": "kindly"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": url}],
        },
        {
            "role": "assistant",
            "content": "so",
            "tool_calls": [chat_call("t1", "f", {}), chat_call("t2", "g", {})],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "tool", "tool_call_id": "t2", "content": "sun"},
    ]
    function = {"name": "f", "parameters": schema, "strict": True}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert (sent["max_completion_tokens"], sent["temperature"]) == (9, 0.5)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)
    json_schema = {"name": "n", "schema": schema, "strict": True}
    assert sent["response_format"] == {"type": "json_schema", "json_schema": json_schema}
    assert (sent["reasoning_effort"], sent["user"]) == ("low", "u")
    assert sent["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"previous_response_id": "resp_1"}, UnsupportedError, "previous_response_id"),
        ({"store": True}, UnsupportedError, "store"),
        ({"background": True}, UnsupportedError, "background"),
        ({"conversation": "c"}, UnsupportedError, "conversation"),
        ({"tools": [{"type": "web_search"}]}, UnsupportedError, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, UnsupportedError, "tool_choice.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, UnsupportedError, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            UnsupportedError,
            "input[0].content[0].file_id",
        ),
        ({"input": [{"role": "tool", "content": "x"}]}, RequestError, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, RequestError, "input[0].call_id"),
        ({"text": {"format": {"type": "xml"}}}, RequestError, "text.format.type"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(
    fields: dict[str, Any], error: type[FungibleError], param: str
) -> None:
    with pytest.raises(error) as caught:
        ResponsesOnChat(request()).request(HELLO | fields)
    assert (type(caught.value), caught.value.param) == (error, param)


def test_what_is_left_out_is_named() -> None:
    through = ResponsesOnChat(request())
    through.request(
        {
            "model": "m",
            "input": [
                {"type": "reasoning", "id": "rs", "summary": []},
                {"role": "user", "content": "x"},
            ],
            "reasoning": {"summary": "auto"},
            "include": ["reasoning.encrypted_content"],
            "truncation": "auto",
            "max_tool_calls": 3,
            "metadata": {"feature": "search"},
        }
    )
    assert set(through.dropped) == {
        "input.reasoning",
        "reasoning.summary",
        "include.reasoning.encrypted_content",
        "truncation",
        "max_tool_calls",
    }
    both = ResponsesOnMessages(request())
    both.request(HELLO | {"truncation": "auto", "seed": 1})
    assert both.dropped == ("truncation", "seed")


def test_refusals_logprobs_and_the_fields_that_a_response_repeats() -> None:
    through = ResponsesOnChat(request(instructions="x", temperature=0.5))
    token = {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    said = bare(
        {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token]}}]}
    )
    frames = [said, chunk({"refusal": "no"}), chunk({}, "content_filter"), DONE]
    response = rebuilt_response(b"".join(through.event(frame) for frame in frames))
    (item,) = response.output
    assert item.type == "message"
    text, refusal = item.content
    assert text.type == "output_text"
    assert refusal.type == "refusal"
    assert refusal.refusal == "no"
    assert text.logprobs is not None
    assert (text.logprobs[0].token, text.logprobs[0].bytes) == ("a", [97])
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "content_filter"
    assert (response.instructions, response.temperature) == ("x", 0.5)
    assert response.usage is None


def test_calls_that_are_mixed_break_the_stream() -> None:
    through = ResponsesOnChat(request())
    for number in (0, 1):
        call = {"index": number, "id": f"t{number}", "function": {"name": "f"}}
        through.event(chunk({"tool_calls": [call]}))
    with pytest.raises(StreamBrokenError, match="mixed"):
        through.event(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}))


def test_the_bridge_that_an_attempt_needs() -> None:
    assert bridge_for(request(), {"responses", "chat/completions"}) is None
    assert isinstance(bridge_for(request(), {"chat/completions"}), ResponsesOnChat)
    assert isinstance(bridge_for(request(), {"messages"}), ResponsesOnMessages)
    with pytest.raises(UnsupportedError, match="/v1/responses") as caught:
        bridge_for(request(), {"embeddings"})
    assert "/v1/embeddings" in caught.value.hint
