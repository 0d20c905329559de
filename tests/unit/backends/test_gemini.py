"""Chat requests as Gemini's and back: judged by the shape that Google documents."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from fungible.backends.gemini_answer import GeminiReader, GeminiStream, whole_answer
from fungible.backends.gemini_request import to_gemini
from fungible.contract.inference import InferenceRequest, usage_from_openai
from fungible.contract.sse import split_frames
from fungible.errors import (
    RequestError,
    StreamBrokenError,
    UnsupportedError,
    UpstreamBusyError,
    UpstreamConnectError,
)
from fungible.wire.chat_writing import ChatWriter
from support.forms import ChatForm, decoded
from support.gemini_shape import check_gemini
from support.sdk_types import check_shape

PIXEL = base64.b64encode(b"\x89PNG not really").decode()
USER = {"role": "user", "content": "hi"}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def gemini(body: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Translated, and of the documented shape."""
    found = to_gemini({"model": "m", **body}, **options)
    check_gemini(msgspec.json.decode(msgspec.json.encode(found)))
    return found


def call(name: str, arguments: str, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **more}


SIGNED = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/png;base64,{PIXEL}"},
                },
                {"type": "image_url", "image_url": {"url": "https://x/cat.jpg?size=1"}},
            ],
        },
        {"role": "assistant", "tool_calls": [call("look", '{"at": 1}', **SIGNED)]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"is": "a cat"}'},
    ],
    "max_tokens": 5,
    "temperature": 1.5,
    "top_p": 0.9,
    "top_k": 3,
    "stop": ["a", "b"],
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [LOOK],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "reasoning_effort": "high",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    },
}


def test_a_whole_conversation() -> None:
    found = gemini(CONVERSATION)
    assert found["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    asked, called, answered = (turn["parts"] for turn in found["contents"])
    assert asked[1] == {"inlineData": {"mimeType": "image/png", "data": PIXEL}}
    assert asked[2]["fileData"] == {"mimeType": "image/jpeg", "fileUri": "https://x/cat.jpg?size=1"}
    made = {"functionCall": {"name": "look", "args": {"at": 1}}, "thoughtSignature": "c2ln"}
    assert called == [made]
    responses = [part["functionResponse"]["response"] for part in answered]
    assert responses == [{"result": "a cat"}, {"is": "a cat"}]
    assert found["generationConfig"] == {
        "temperature": 1.5,
        "topP": 0.9,
        "topK": 3,
        "maxOutputTokens": 5,
        "stopSequences": ["a", "b"],
        "seed": 7,
        "presencePenalty": 0.5,
        "frequencyPenalty": 0.25,
        "responseLogprobs": True,
        "logprobs": 2,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
        "thinkingConfig": {"thinkingLevel": "HIGH"},
    }
    chosen = {"mode": "ANY", "allowedFunctionNames": ["look"]}
    assert found["toolConfig"]["functionCallingConfig"] == chosen


@pytest.mark.parametrize(
    ("effort", "thinking", "wanted"),
    [
        ("low", "level", {"thinkingLevel": "LOW"}),
        ("none", "level", {"thinkingBudget": 0}),
        ("medium", "budget", {"thinkingBudget": 8192}),
    ],
)
def test_effort(effort: str, thinking: Any, wanted: dict[str, Any]) -> None:
    found = gemini({"messages": [USER], "reasoning_effort": effort}, thinking=thinking)
    assert found["generationConfig"]["thinkingConfig"] == wanted


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"n": 2}, UnsupportedError, "n"),
        ({"stop": ""}, RequestError, "stop"),
        ({"reasoning_effort": "extreme"}, UnsupportedError, "reasoning_effort"),
        ({"tools": [{"type": "custom"}]}, UnsupportedError, "tools[0]"),
        (
            {"messages": [{"role": "tool", "tool_call_id": "x"}]},
            RequestError,
            "messages[0].tool_call_id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}],
                    }
                ]
            },
            UnsupportedError,
            "messages[0].content",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(
    body: dict[str, Any], error: type[RequestError], param: str
) -> None:
    with pytest.raises(error) as caught:
        to_gemini({"messages": [USER], **body}, "budget")
    assert caught.value.param == param


texts = st.text(max_size=8)


@given(
    turns=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), max_size=6),
    arguments=st.dictionaries(texts, st.none() | st.integers(0, 9) | texts, max_size=3),
    result=texts | st.dictionaries(texts, texts, max_size=2).map(json.dumps),
)
def test_whatever_chat_allows_keeps_its_words_and_its_order(
    turns: list[tuple[str, str]], arguments: dict[str, Any], result: str
) -> None:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    messages.append({"role": "assistant", "tool_calls": [call("look", json.dumps(arguments))]})
    messages.append({"role": "tool", "tool_call_id": "call_1", "content": result})
    found = gemini({"messages": messages})
    roles = [turn["role"] for turn in found["contents"]]
    assert all(roles[at] != roles[at + 1] for at in range(len(roles) - 1))
    parts = [part for turn in found["contents"] for part in turn["parts"]]
    spoken = "".join(part.get("text", "") for part in parts)
    assert spoken == "".join(text for role, text in turns if role != "system")
    assert parts[-2]["functionCall"]["args"] == arguments
    response = parts[-1]["functionResponse"]["response"]
    assert isinstance(response, dict)


def pair(*, usage: bool = True) -> tuple[GeminiReader, ChatWriter]:
    body = {"stream_options": {"include_usage": usage}}
    request = InferenceRequest(request_id="req_1", model="m", body=body)
    return GeminiReader("b", "req_1"), ChatWriter(request, "gemini")


def response(*parts: dict[str, Any], finish: str = "STOP", **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate | more.pop("candidate", {})], **more}


def answered(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(whole_answer(msgspec.json.encode(body), *pair()))
    check_shape(ChatCompletion, found)
    return found


def test_an_answer_with_thought_calls_and_logprobs() -> None:
    chosen = {"token": "Let", "logProbability": -0.5}
    result = {
        "chosenCandidates": [chosen, {"token": "ü"}],
        "topCandidates": [{"candidates": [chosen]}],
    }
    found = answered(
        response(
            {"text": "hm", "thought": True},
            {"text": "Let me look."},
            {"functionCall": {"name": "look", "args": {"at": "ü"}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "see"}},
            candidate={"logprobsResult": result},
        )
    )["choices"][0]
    message = found["message"]
    assert found["finish_reason"] == "tool_calls"
    assert (message["content"], message["reasoning_content"]) == ("Let me look.", "hm")
    first, second = message["tool_calls"]
    assert first["id"] != second["id"]
    assert json.loads(first["function"]["arguments"]) == {"at": "ü"}
    assert first["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    one, two = found["logprobs"]["content"]
    assert (one["logprob"], two["logprob"], two["bytes"]) == (-0.5, 0.0, [195, 188])
    assert one["top_logprobs"][0]["token"] == "Let"
    # What it says of a call comes back to it word for word.
    again = gemini({"messages": [USER, message]})["contents"][1]["parts"]
    assert again[1]["thoughtSignature"] == "c2ln"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BRAND_NEW", "stop"),
    ],
)
def test_reasons_to_stop(reason: str, finish: str) -> None:
    assert answered(response({"text": "a"}, finish=reason))["choices"][0]["finish_reason"] == finish


def test_a_blocked_prompt_is_filtered_content() -> None:
    choice = answered({"promptFeedback": {"blockReason": "SAFETY"}})["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", "")


def test_thoughts_and_cached_tokens_reach_their_leaves() -> None:
    counts = {"promptTokenCount": 20, "cachedContentTokenCount": 15, "candidatesTokenCount": 3}
    counts |= {"thoughtsTokenCount": 4, "toolUsePromptTokenCount": 2}
    usage = usage_from_openai(answered(response({"text": "a"}, usageMetadata=counts))["usage"])
    assert (usage.in_uncached, usage.in_cache_read, usage.in_cache_write) == (7, 15, 0)
    assert (usage.out_visible, usage.out_reasoning) == (3, 4)


@pytest.mark.parametrize(
    "body",
    [
        {"candidates": 1},
        response({"text": "a"}, finish=""),
        response({"functionCall": {}}),
        response(finish="MALFORMED_FUNCTION_CALL"),
    ],
)
def test_what_is_no_answer_is_an_error(body: dict[str, Any]) -> None:
    with pytest.raises(UpstreamConnectError):
        answered(body)


def streamed(*responses: dict[str, Any], usage: bool = True) -> list[bytes]:
    stream = GeminiStream(*pair(usage=usage))
    frames = [stream.response(msgspec.json.encode(one)) for one in responses]
    frames = [one for frame in [*frames, stream.end()] if frame for one in split_frames(frame)]
    for chunk in decoded(frames):
        check_shape(ChatCompletionChunk, chunk)
    return frames


def test_a_stream_of_text_thought_and_calls() -> None:
    counts = {"promptTokenCount": 2, "candidatesTokenCount": 1}
    frames = streamed(
        response({"text": "hm", "thought": True}, finish="", usageMetadata=counts),
        response({"text": "Grüße"}, finish=""),
        response({"functionCall": {"name": "look", "args": {"a": 1}}}, finish=""),
        response({"functionCall": {"name": "see", "args": {}}}, usageMetadata=counts),
    )
    chunks = decoded(frames)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "reasoning_content": "hm"}
    assert ChatForm().stream_text(frames) == "Grüße"
    calls = [
        call
        for c in chunks
        if c["choices"]
        for call in c["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [
        (0, "look"),
        (1, "see"),
    ]
    assert len({call["id"] for call in calls}) == 2
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["usage"]["total_tokens"] == 3


def test_a_stream_is_done_when_the_model_stopped_and_only_then() -> None:
    end = streamed(response({"text": "a"}), usage=False)[-1]
    assert end == b"data: [DONE]\n\n"
    assert not ChatForm().ended(streamed(response({"text": "a"}, finish="")))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, UpstreamBusyError),
        (response(finish="MALFORMED_FUNCTION_CALL"), StreamBrokenError),
        ({"candidates": [1]}, StreamBrokenError),
    ],
)
def test_what_breaks_a_stream(body: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        streamed(body)
    with pytest.raises(StreamBrokenError, match="not JSON"):
        GeminiStream(*pair()).response(b"{no")
