"""Chat clients on Anthropic backends: nothing that can be said gets lost, the rest is named."""

from typing import Any

import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as MessageParams
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from fungible.contract.inference import InferenceRequest
from fungible.errors import RequestError, UnsupportedError
from fungible.wire.chat_on_messages.bridge import ChatOnMessages
from fungible.wire.messages_on_chat.bridge import MessagesOnChat
from support.sdk_types import check_shape
from support.wire_answers import Answer, answers, calls, chat_call, names, rebuilt_completion, words
from support.wire_events import message_events, typed

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"stream_options": {"include_usage": True}}


def bridge(**fields: Any) -> ChatOnMessages:
    return ChatOnMessages(InferenceRequest(request_id="r", model="m", body=HELLO | fields))


def asked(**fields: Any) -> dict[str, Any]:
    """What is sent for a request, which must be one by the SDK's types."""
    sent = bridge().request(HELLO | fields)
    check_shape(MessageParams, sent)
    return sent


@given(answer=answers)
def test_a_whole_answer_there_and_back(answer: Answer) -> None:
    request = InferenceRequest(request_id="r", model="m", body={})
    message = MessagesOnChat(request).whole(answer.completion())
    rebuilt = ChatCompletion.model_validate_json(bridge().whole(message))
    said = rebuilt.choices[0].message
    found = [
        (c.id, c.function.name, msgspec.json.decode(c.function.arguments))
        for c in said.tool_calls or ()
        if c.type == "function"
    ]
    assert (said.content or "", found) == (answer.text, answer.calls)
    assert rebuilt.choices[0].finish_reason == answer.finish
    assert rebuilt.usage is not None
    assert rebuilt.usage.prompt_tokens_details is not None
    assert rebuilt.usage.prompt_tokens == answer.fresh + answer.cached
    assert rebuilt.usage.prompt_tokens_details.cached_tokens == answer.cached
    assert rebuilt.usage.completion_tokens == answer.out


turns = st.lists(
    st.tuples(words.filter(bool), st.lists(calls, max_size=2, unique_by=lambda call: call[0])),
    min_size=1,
    max_size=3,
)


@given(said=turns, system=names)
def test_a_conversation_there_and_back(said: list[Any], system: str) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    for text, made in said:
        messages.append({"role": "user", "content": text})
        turn: dict[str, Any] = {"role": "assistant", "content": text}
        if made:
            turn["tool_calls"] = [chat_call(*call) for call in made]
        messages.append(turn)
        messages += [
            {"role": "tool", "tool_call_id": id_, "content": name} for id_, name, _ in made
        ]
    sent = asked(messages=messages)
    back = MessagesOnChat(InferenceRequest(request_id="r", model="m", body=sent))
    assert back.request(sent)["messages"] == messages
    assert back.dropped == ()


def test_a_request_with_everything() -> None:
    schema = {"type": "object", "properties": {}}
    sent = asked(
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
                ],
            },
        ],
        max_tokens=9,
        tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}],
        tool_choice="required",
        parallel_tool_calls=False,
        stop="END",
        user="u1",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        reasoning_effort="high",
    )
    assert sent["system"] == [{"type": "text", "text": "be brief"}]
    png = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert sent["messages"][0]["content"][1:] == [
        {"type": "image", "source": png},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
    ]
    assert sent["tools"] == [{"name": "f", "input_schema": schema}]
    assert sent["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert (sent["max_tokens"], sent["stop_sequences"]) == (9, ["END"])
    assert sent["metadata"] == {"user_id": "u1"}
    form = {"type": "json_schema", "schema": schema}
    assert sent["output_config"] == {"format": form, "effort": "high"}
    assert asked()["max_tokens"] == 4096


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"temperature": 1.5}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        bridge().request(HELLO | fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "t", "function": {"arguments": "["}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
    ],
)
def test_a_malformed_turn_is_named(turn: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        bridge().request(HELLO | {"messages": [turn]})
    assert str(caught.value.param).startswith("messages[0]")
    assert type(caught.value) is RequestError


def test_what_is_left_out_is_named() -> None:
    through = bridge()
    through.request(HELLO | {"seed": 1, "logit_bias": {}, "reasoning_effort": "minimal", "x": 1})
    assert set(through.dropped) == {"seed", "x", "reasoning_effort"}


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stream_reports_usage_where_it_was_asked_for(wanted: bool) -> None:
    start = {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}
    through = bridge(**(USAGE if wanted else {}))
    events = message_events(start=start, end={"output_tokens": 7})
    parts = [through.event(event) for event in events]
    assert parts[-1].endswith(b"data: [DONE]\n\n")
    rebuilt = rebuilt_completion(b"".join(parts))
    assert rebuilt.choices[0].message.content == "Grüße"
    counts = rebuilt.usage and (rebuilt.usage.prompt_tokens, rebuilt.usage.completion_tokens)
    assert counts == ((15, 7) if wanted else None)


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    through = bridge()
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    events = [
        typed({"type": "content_block_start", "index": 0, "content_block": block}),
        typed({"type": "content_block_stop", "index": 0}),
        typed({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}),
    ]
    head = through.event(message_events()[0])
    rebuilt = rebuilt_completion(head + b"".join(map(through.event, events)))
    (call,) = rebuilt.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.arguments == "{}"


def test_pings_and_later_events_give_nothing() -> None:
    through = bridge()
    for event in (typed({"type": "ping"}), b": ping\n\n", typed({"type": "later", "delta": 1})):
        assert through.event(event) == b""
