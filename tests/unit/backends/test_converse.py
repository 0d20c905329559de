"""Chat requests as Converse requests and back: judged by Bedrock's service model."""

import base64
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from fungible.backends.converse_answer import ConverseStream, whole_answer
from fungible.backends.converse_request import to_converse
from fungible.contract.inference import InferenceRequest, usage_from_openai
from fungible.contract.sse import frame_data, split_frames
from fungible.errors import RequestError, StreamBrokenError, UnsupportedError, UpstreamConnectError
from fungible.wire.chat_writing import ChatWriter
from support.aws_wire import check_request
from support.sdk_types import check_shape

PIXEL = base64.b64encode(b"\x89PNG not really").decode()
USER = {"role": "user", "content": "hi"}


def converse(body: dict[str, Any]) -> dict[str, Any]:
    """Translated, and accepted by the service model."""
    found = to_converse({"model": "m", **body})
    check_request("bedrock-runtime", "/model/m/converse", {}, msgspec.json.encode(found))
    return found


def call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_whole_conversation() -> None:
    found = converse(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "In German."}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?", "cache_control": {"ttl": "1h"}},
                        {
                            "type": "image_url",
                            "image_url": {"url": f"data:image/png;base64,{PIXEL}"},
                        },
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [call("look", '{"at": 1}')]},
                {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
                {"role": "user", "content": "Sure?"},
            ],
            "max_completion_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": "END",
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "look", "description": "", "strict": True},
                }
            ],
            "tool_choice": "required",
            "reasoning_effort": "low",
            "service_tier": "flex",
            "top_k": 3,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
            },
        }
    )
    assert found["system"] == [{"text": "Be brief."}, {"text": "In German."}]
    assert [turn["role"] for turn in found["messages"]] == ["user", "assistant", "user"]
    first, asked, answered = (turn["content"] for turn in found["messages"])
    assert first[1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert first[2] == {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    assert asked == [{"toolUse": {"toolUseId": "call_1", "name": "look", "input": {"at": 1}}}]
    assert answered[0] == {"toolResult": {"toolUseId": "call_1", "content": [{"text": "a cat"}]}}
    assert answered[1] == {"text": "Sure?"}
    limits = {"maxTokens": 5, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]}
    assert found["inferenceConfig"] == limits
    assert found["toolConfig"]["toolChoice"] == {"any": {}}
    assert found["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
    text = found["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert json.loads(text["schema"]) == {"type": "object"}
    assert (found["serviceTier"], found["outputConfig"]["effort"]) == ({"type": "flex"}, "low")
    assert found["additionalModelRequestFields"] == {"top_k": 3}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", {"auto": {}}),
        (None, None),
        ({"type": "function", "function": {"name": "look"}}, {"tool": {"name": "look"}}),
    ],
)
def test_choices_of_tools(choice: Any, wanted: Any) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    found = converse({"messages": [USER], "tools": tools, "tool_choice": choice})
    assert found["toolConfig"].get("toolChoice") == wanted
    assert "toolConfig" not in converse({"messages": [USER], "tools": tools, "tool_choice": "none"})


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        (
            {"type": "image_url", "image_url": {"url": "s3://bucket/cat.jpg"}},
            {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/cat.jpg"}}}},
        ),
        (
            {"type": "input_audio", "input_audio": {"format": "wav", "data": PIXEL}},
            {"audio": {"format": "wav", "source": {"bytes": PIXEL}}},
        ),
        (
            {
                "type": "file",
                "file": {
                    "filename": "a/b  c.pdf",
                    "file_data": f"data:application/pdf;base64,{PIXEL}",
                },
            },
            {"document": {"format": "pdf", "name": "a b c pdf", "source": {"bytes": PIXEL}}},
        ),
    ],
)
def test_media(part: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = converse({"messages": [{"role": "user", "content": [part]}]})
    assert found["messages"][0]["content"] == [wanted]


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"n": 2}, UnsupportedError, "n"),
        ({"temperature": 1.5}, UnsupportedError, "temperature"),
        ({"temperature": "warm"}, RequestError, "temperature"),
        ({"stop": [""]}, RequestError, "stop"),
        ({"response_format": {"type": "json_object"}}, UnsupportedError, "response_format"),
        ({"tools": [{"type": "custom", "custom": {}}]}, UnsupportedError, "tools[0]"),
        (
            {"tool_choice": {"type": "function"}, "tools": [{"function": {"name": "f"}}]},
            RequestError,
            "tool_choice",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}],
                    }
                ]
            },
            UnsupportedError,
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {}}]}]},
            UnsupportedError,
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            RequestError,
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [call("f", "not json")]}]},
            RequestError,
            "messages[0].tool_calls[0]",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(
    body: dict[str, Any], error: type[RequestError], param: str
) -> None:
    with pytest.raises(error) as caught:
        to_converse({"messages": [USER], **body})
    assert caught.value.param == param


names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
documents = st.dictionaries(
    st.text(max_size=5), st.none() | st.integers(0, 9) | st.text(max_size=5)
)
texts = st.text(max_size=8) | st.lists(
    st.text(max_size=8).map(lambda text: {"type": "text", "text": text}), max_size=3
)


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Any order of turns that the chat format allows, calls answered by any id."""
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 5))):
        role = draw(st.sampled_from(["system", "developer", "user", "assistant", "tool"]))
        turn: dict[str, Any] = {"role": role, "content": draw(texts)}
        if role == "tool":
            turn["tool_call_id"] = draw(st.text(min_size=1, max_size=80))
        if role == "assistant" and draw(st.booleans()):
            arguments = json.dumps(draw(documents))
            turn["tool_calls"] = [call(draw(names), arguments, draw(st.text(min_size=1)))]
        found.append(turn)
    return found


@given(
    messages=turns(),
    stop=st.none() | st.text(min_size=1, max_size=5) | st.lists(st.text(min_size=1), max_size=4),
    limit=st.none() | st.integers(1, 1000),
    heat=st.none() | st.floats(0, 1),
    tools=st.lists(st.tuples(names, st.text(max_size=9), documents), max_size=3),
)
def test_whatever_chat_allows_the_service_model_takes(
    messages: list[dict[str, Any]], stop: Any, limit: Any, heat: Any, tools: list[Any]
) -> None:
    functions = [
        {"type": "function", "function": {"name": name, "description": said, "parameters": schema}}
        for name, said, schema in tools
    ]
    body = {"messages": messages, "stop": stop, "max_tokens": limit, "temperature": heat}
    found = converse(body | ({"tools": functions} if functions else {}))
    roles = [turn["role"] for turn in found["messages"]]
    assert all(one != next_one for one, next_one in itertools.pairwise(roles))
    shown = "".join(
        block["text"]
        for turn in [*found["messages"], {"content": found.get("system", [])}]
        for block in turn["content"]
        if "text" in block
    )
    asked = [
        turn["content"]
        if isinstance(turn["content"], str)
        else "".join(p["text"] for p in turn["content"])
        for turn in messages
        if turn["role"] != "tool"
    ]
    assert sorted(shown) == sorted("".join(asked))


def writer(*, stream: bool = False, usage: bool = True) -> ChatWriter:
    body = {"stream_options": {"include_usage": usage}}
    request = InferenceRequest(request_id="req_1", model="m", body=body, stream=stream)
    return ChatWriter(request, "vendor.model")


def answered(**fields: Any) -> dict[str, Any]:
    body = {
        "output": {"message": {"role": "assistant", "content": [{"text": "ja"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
        "metrics": {"latencyMs": 1},
    } | fields
    found: dict[str, Any] = msgspec.json.decode(whole_answer(msgspec.json.encode(body), writer()))
    check_shape(ChatCompletion, found)
    return found


def test_an_answer_with_thought_citations_and_calls() -> None:
    use = {"toolUseId": "t1", "name": "look", "input": {"at": "ü"}}
    blocks = [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"text": "Let me "},
        {"citationsContent": {"content": [{"text": "look."}], "citations": []}},
        {"toolUse": use},
    ]
    message = {"role": "assistant", "content": blocks}
    found = answered(output={"message": message}, stopReason="tool_use")["choices"][0]
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] == "Let me look."
    assert found["message"]["reasoning_content"] == "hm"
    (made,) = found["message"]["tool_calls"]
    assert (made["id"], made["function"]["name"]) == ("t1", "look")
    assert json.loads(made["function"]["arguments"]) == {"at": "ü"}


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
    ],
)
def test_reasons_to_stop(stop: str, finish: str) -> None:
    assert answered(stopReason=stop)["choices"][0]["finish_reason"] == finish


def test_cached_tokens_reach_their_leaves() -> None:
    counts = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 35}
    counts |= {"cacheReadInputTokens": 20, "cacheWriteInputTokens": 10}
    usage = usage_from_openai(answered(usage=counts)["usage"])
    assert (usage.in_uncached, usage.in_cache_read, usage.in_cache_write) == (3, 20, 10)
    assert usage.out_visible == 2


@pytest.mark.parametrize(
    "fields", [{"output": {}}, {"output": 1}, {"stopReason": "malformed_tool_use"}]
)
def test_a_malformed_answer_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(UpstreamConnectError, match="Bedrock"):
        answered(**fields)


def events_of(stream: ConverseStream, *events: tuple[str, dict[str, Any]]) -> list[Any]:
    frames = b"".join(stream.event(kind, msgspec.json.encode(body)) for kind, body in events)
    data = [frame_data(frame) for frame in split_frames(frames + stream.end()) if frame]
    chunks = [msgspec.json.decode(one) for one in data if one and one != b"[DONE]"]
    for chunk in chunks:
        check_shape(ChatCompletionChunk, chunk)
    return [*chunks, "[DONE]"] if data and data[-1] == b"[DONE]" else chunks


def delta(index: int, **body: Any) -> tuple[str, dict[str, Any]]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": body}


def test_calls_come_in_pieces_beside_text() -> None:
    def begin(index: int, name: str) -> tuple[str, dict[str, Any]]:
        use = {"toolUseId": f"t{index}", "name": name}
        return "contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use}}

    chunks = events_of(
        ConverseStream(writer(stream=True)),
        ("messageStart", {"role": "assistant"}),
        delta(0, reasoningContent={"text": "hm"}),
        delta(1, text="Let me"),
        ("contentBlockStop", {"contentBlockIndex": 1}),
        begin(2, "look"),
        delta(2, toolUse={"input": '{"a'}),
        delta(2, toolUse={"input": '": 1}'}),
        begin(3, "see"),
        delta(3, toolUse={"input": "{}"}),
        ("messageStop", {"stopReason": "tool_use"}),
        ("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2}, "metrics": {"latencyMs": 1}}),
    )
    assert chunks.pop() == "[DONE]"
    assert chunks.pop()["usage"]["total_tokens"] == 3
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    made: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        for piece in chunk["choices"][0]["delta"].get("tool_calls", ()):
            one = made.setdefault(piece["index"], {"arguments": ""})
            one["arguments"] += piece["function"]["arguments"]
            one |= {"id": piece["id"], "name": piece["function"]["name"]} if "id" in piece else {}
    assert made == {
        0: {"arguments": '{"a": 1}', "id": "t2", "name": "look"},
        1: {"arguments": "{}", "id": "t3", "name": "see"},
    }
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "tool_calls"


def test_a_stream_is_done_when_the_model_stopped_and_only_then() -> None:
    stop = ("messageStop", {"stopReason": "end_turn"})
    assert events_of(ConverseStream(writer()), delta(0, text="a"), stop)[-1] == "[DONE]"
    assert "[DONE]" not in events_of(ConverseStream(writer()), delta(0, text="a"))
    assert events_of(ConverseStream(writer()), ("unheardOf", {})) == []


@pytest.mark.parametrize(
    "event",
    [
        delta(0, toolUse={"input": "{}"}),
        ("contentBlockDelta", {}),
        ("messageStop", {"stopReason": "malformed_model_output"}),
    ],
)
def test_a_malformed_event_breaks_the_stream(event: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(StreamBrokenError, match="Bedrock"):
        events_of(ConverseStream(writer()), event)
