"""Anthropic clients on chat backends: nothing that can be said gets lost, the rest is named."""

from typing import Any

import msgspec
import pytest
from anthropic.types import Message, message_create_params
from hypothesis import given
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming as ChatParams,
)

from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import split_frames
from fungible.errors import (
    FungibleError,
    RequestError,
    StreamBrokenError,
    UnsupportedError,
    UpstreamConnectError,
)
from fungible.wire.chat_on_messages.bridge import ChatOnMessages
from fungible.wire.messages_on_chat.bridge import MessagesOnChat
from support.sdk_types import check_shape
from support.wire_answers import (
    Answer,
    answers,
    chat_streams,
    chunk,
    rebuilt_completion,
    rebuilt_message,
)
from support.wire_events import bare, bodies

HELLO: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
}


def bridge(**fields: Any) -> MessagesOnChat:
    body = HELLO | fields
    return MessagesOnChat(InferenceRequest(request_id="r", model="m", body=body))


def asked(**fields: Any) -> dict[str, Any]:
    """What is sent for a request, which must be one by both SDKs' types."""
    # Newer SDKs have no sampling fields; older ones and servers do.
    check_shape(message_create_params.MessageCreateParamsNonStreaming, HELLO | fields, known=False)
    sent = bridge().request(HELLO | fields)
    check_shape(ChatParams, {name: sent[name] for name in sent if name != "top_k"})
    return sent


def check(message: Message, answer: Answer) -> None:
    text = "".join(block.text for block in message.content if block.type == "text")
    calls = [(b.id, b.name, b.input) for b in message.content if b.type == "tool_use"]
    assert (text, calls) == (answer.text, answer.calls)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (answer.fresh, answer.cached)
    assert usage.output_tokens == answer.out
    stops = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    assert message.stop_reason == stops[answer.finish]


@given(answer=answers)
def test_a_whole_answer(answer: Answer) -> None:
    body = bridge().whole(answer.completion())
    check(Message.model_validate_json(body), answer)


@given(made=chat_streams())
def test_a_stream_in_any_pieces(made: tuple[Answer, list[bytes]]) -> None:
    answer, frames = made
    through = bridge()
    stream = b"".join(through.event(frame) for frame in frames)
    check(rebuilt_message(stream), answer)
    check_order(bodies(stream))


def check_order(events: list[dict[str, Any]]) -> None:
    """Blocks open, grow and close one after the other, within the message."""
    assert [events[0]["type"], events[-2]["type"], events[-1]["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    now, newest = None, -1
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert now is None
            now = newest = event["index"] == newest + 1 and event["index"]
        else:
            assert event["index"] == now
            if event["type"] == "content_block_stop":
                now = None
    assert now is None


@given(made=chat_streams())
def test_there_and_back_again(made: tuple[Answer, list[bytes]]) -> None:
    answer, frames = made
    there = bridge()
    back = ChatOnMessages(
        InferenceRequest(
            request_id="r", model="m", body={"stream_options": {"include_usage": True}}
        )
    )
    events = b"".join(there.event(frame) for frame in frames)
    stream = b"".join(back.event(frame) for frame in split_frames(events))
    rebuilt = rebuilt_completion(stream)
    said = rebuilt.choices[0].message
    calls = [
        (c.id, c.function.name, msgspec.json.decode(c.function.arguments))
        for c in said.tool_calls or ()
        if c.type == "function"
    ]
    assert (said.content or "", calls) == (answer.text, answer.calls)
    assert rebuilt.choices[0].finish_reason == answer.finish
    assert rebuilt.usage is not None
    assert rebuilt.usage.prompt_tokens == answer.fresh + answer.cached
    assert rebuilt.usage.completion_tokens == answer.out


def test_a_request_with_everything() -> None:
    image = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Köln"}}
    sent = asked(
        system=[{"type": "text", "text": "be brief"}],
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "look"}, {"type": "image", "source": image}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "so"}, call]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "rain"},
                    {"type": "text", "text": "and?"},
                ],
            },
        ],
        tools=[{"name": "weather", "description": "d", "input_schema": schema}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        metadata={"user_id": "u1"},
        output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"},
    )
    function = {"name": "weather", "arguments": '{"city":"Köln"}'}
    assert sent["messages"] == [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": "so",
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": "and?"},
    ]
    tool = {"name": "weather", "description": "d", "parameters": schema}
    assert sent["tools"] == [{"type": "function", "function": tool}]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    assert (sent["max_completion_tokens"], sent["stop"], sent["user"]) == (50, ["END"], "u1")
    assert (sent["temperature"], sent["top_p"], sent["top_k"]) == (0.5, 0.9, 40)
    assert sent["response_format"]["json_schema"]["schema"] == schema
    assert sent["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choices(choice: dict[str, Any], sent: object) -> None:
    assert asked(tool_choice=choice)["tool_choice"] == sent


def test_what_is_left_out_is_named() -> None:
    through = bridge()
    mark = {"cache_control": {"type": "ephemeral"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "hi", **mark}]},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "yes"}]},
    ]
    through.request(
        HELLO
        | {
            "messages": turns,
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "service_tier": "auto",
            "seed": 3,
        }
    )
    assert set(through.dropped) == {
        "service_tier",
        "seed",
        "content.cache_control",
        "content.thinking",
        "thinking",
    }
    through = bridge()
    through.request(HELLO | {"thinking": {"type": "disabled"}, "tools": []})
    assert through.dropped == ()


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, UnsupportedError, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, RequestError, "tools[0].input_schema"),
        ({"tool_choice": {"type": "some"}}, RequestError, "tool_choice.type"),
        ({"mcp_servers": [{"url": "x"}]}, UnsupportedError, "mcp_servers"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            UnsupportedError,
            "messages[0].content[0]",
        ),
        ({"system": [{"type": "image"}]}, UnsupportedError, "system[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            RequestError,
            "messages[0].content[0].tool_use_id",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(
    fields: dict[str, Any], error: type[FungibleError], param: str
) -> None:
    with pytest.raises(error) as caught:
        bridge().request(HELLO | fields)
    assert (type(caught.value), caught.value.param) == (error, param)


def test_reasoning_is_shown_where_it_was_asked_for() -> None:
    frames = [chunk({"reasoning_content": "hm"}), chunk({"content": "yes"}), chunk({}, "stop")]
    for thinking, kinds in (
        ({}, ["text"]),
        ({"thinking": {"type": "adaptive"}}, ["thinking", "text"]),
    ):
        through = bridge(**thinking)
        stream = b"".join(through.event(frame) for frame in [*frames, b"data: [DONE]\n\n"])
        assert [block.type for block in rebuilt_message(stream).content] == kinds


def test_the_stop_sequence_that_vllm_names() -> None:
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    for reason, stop in (("END", "END"), ("other", None), (7, None)):
        body = msgspec.json.encode({"choices": [choice | {"stop_reason": reason}]})
        message = Message.model_validate_json(bridge(stop_sequences=["END"]).whole(body))
        assert message.stop_sequence == stop


def test_arguments_that_are_no_object() -> None:
    call = {"id": "t", "function": {"name": "f", "arguments": '{"a": '}}
    choice = {"index": 0, "message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    with pytest.raises(UpstreamConnectError, match="'f'"):
        bridge().whole(msgspec.json.encode({"choices": [choice]}))
    cut = msgspec.json.encode({"choices": [choice | {"finish_reason": "length"}]})
    message = Message.model_validate_json(bridge().whole(cut))
    assert message.stop_reason == "max_tokens"


def test_calls_that_are_mixed_break_the_stream() -> None:
    through = bridge()
    for number in (0, 1):
        call = {"index": number, "id": f"t{number}", "function": {"name": "f"}}
        through.event(chunk({"tool_calls": [call]}))
    with pytest.raises(StreamBrokenError, match="mixed"):
        through.event(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}))


def test_pings_and_comments_give_no_event() -> None:
    assert bridge().event(b": ping\n\n") == b""
    assert bodies(bridge().event(bare({"choices": []})))[0]["type"] == "message_start"
