"""Formats, tools and several answers, through the application."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fungible.engine.scheduler import Scheduler
from fungible.engine.server import build_app
from fungible.engine.tokenizer import ChatTokenizer
from support.asgi import Call
from support.completions import MANIFEST
from support.engine_setup import EOS, SCRIPT_START, byte_tokens, script
from support.history_runtime import HistoryRuntime, NextToken
from support.tiny_model import TOKENS

GET = '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>'
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
BAD_TOOL = {
    "type": "function",
    "function": {"name": "bad", "parameters": {"type": "object", "not": {"required": ["a"]}}},
}
USER = {"role": "user", "content": "hi ~"}


class Chat:
    """An application over a scripted model, and what it ran."""

    def __init__(self, app: Any, runtime: HistoryRuntime) -> None:
        self._app, self.runtime = app, runtime

    async def __call__(self, **fields: Any) -> Call:
        body = {"model": "tiny", "messages": [USER], "max_tokens": 300, **fields}
        return await Call(self._app, "POST", "/v1/chat/completions", body).done()


@asynccontextmanager
async def chatting(tokenizer: ChatTokenizer, text: str | None) -> AsyncIterator[Chat]:
    """The model answers `text`; `None` gives random-looking logits."""
    tail = len(tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n"))
    spoken = None if text is None else _late(script(text, tail=tail))
    runtime = HistoryRuntime(len(TOKENS), slots=4, context=2048, next_token=spoken)
    scheduler = Scheduler(runtime, tokenizer, eos_ids=frozenset({EOS}))
    app = build_app(scheduler, tokenizer, MANIFEST)
    async with app.router.lifespan_context(app):
        yield Chat(app, runtime)


def _late(speak: NextToken) -> NextToken:
    """A long prompt is run in pieces; the script starts in the last one."""
    return lambda history: speak(history) if SCRIPT_START in history else EOS


def deltas(call: Call) -> list[dict[str, Any]]:
    """The choices of a stream that came to its end."""
    *events, done = call.events()
    assert done == "[DONE]"
    return [choice for event in events for choice in event["choices"]]


async def test_calls_of_tools(tokenizer: ChatTokenizer) -> None:
    async with chatting(tokenizer, f"Let me see.\n{GET}\n{GET}") as chat:
        call = await chat(tools=[TOOL])
    (choice,) = call.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    first, second = choice["message"]["tool_calls"]
    assert first["id"] != second["id"]
    assert first["type"] == "function"
    assert first["function"] == {"name": "get", "arguments": '{"a": 1}'}


async def test_streamed_calls_of_tools(tokenizer: ChatTokenizer) -> None:
    async with chatting(tokenizer, f"See: {GET}{GET}") as chat:
        found = deltas(await chat(tools=[TOOL], stream=True))
    assert "".join(one["delta"].get("content", "") for one in found) == "See:"
    pieces = [piece for one in found for piece in one["delta"].get("tool_calls", ())]
    assert [piece["index"] for piece in pieces] == [0, 0, 1, 1]
    assert pieces[0]["function"]["name"] == "get"
    assert pieces[0]["id"] != pieces[2]["id"]
    joined = "".join(one["function"]["arguments"] for one in pieces if one["index"] == 1)
    assert json.loads(joined) == {"a": 1}
    assert found[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("fields", [{"tools": [TOOL], "tool_choice": "none"}, {"tools": []}])
async def test_without_tools_markup_is_text(
    tokenizer: ChatTokenizer, fields: dict[str, Any]
) -> None:
    async with chatting(tokenizer, GET) as chat:
        call = await chat(**fields)
    (choice,) = call.json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": GET}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get"}}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_call_is_made_whatever_the_model_would_say(
    tokenizer: ChatTokenizer, choice: Any, stream: bool
) -> None:
    async with chatting(tokenizer, None) as chat:
        call = await chat(
            tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, stream=stream, seed=3
        )
    if stream:
        pieces = [p for one in deltas(call) for p in one["delta"].get("tool_calls", ())]
        arguments = "".join(one["function"]["arguments"] for one in pieces)
    else:
        ((made,),) = [one["message"]["tool_calls"] for one in call.json()["choices"]]
        arguments = made["function"]["arguments"]
    assert json.loads(arguments)["a"] in (1, 2)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": {"enum": ["a", "b"]}},
                }
            },
            {'"a"', '"b"'},
        ),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, {"yes", "no"}),
        ({"guided_choice": ["yes", "no"]}, {"yes", "no"}),
        ({"guided_regex": "[ab]c"}, {"ac", "bc"}),
        ({"structured_outputs": {"grammar": 'start: "p" | "q"'}}, {"p", "q"}),
        ({"guided_json": '{"const": 5}'}, {"5"}),
    ],
)
async def test_an_answer_has_the_form_that_was_asked_for(
    tokenizer: ChatTokenizer, fields: dict[str, Any], allowed: set[str]
) -> None:
    async with chatting(tokenizer, None) as chat:
        call = await chat(**fields, n=4, seed=1)
    choices = call.json()["choices"]
    assert [one["index"] for one in choices] == [0, 1, 2, 3]
    assert {one["message"]["content"] for one in choices} <= allowed
    assert {one["finish_reason"] for one in choices} == {"stop"}


SCHEMA_FIELD = "response_format.json_schema.schema"
BAD = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": BAD}, SCHEMA_FIELD),
        ({"response_format": {"type": "json_schema"}}, SCHEMA_FIELD),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"structured_outputs": {"regex": "((("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"tools": [TOOL, BAD_TOOL], "tool_choice": "required"}, "tools[1].function.parameters"),
        (
            {
                "tools": [TOOL, BAD_TOOL],
                "tool_choice": {"type": "function", "function": {"name": "bad"}},
            },
            "tools[1].function.parameters",
        ),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "rm"}}},
            "tool_choice",
        ),
        ({"tools": [TOOL], "tool_choice": "required", "guided_regex": "a"}, "guided_regex"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function",
        ),
    ],
)
async def test_what_cannot_be_done_names_its_field(
    tokenizer: ChatTokenizer, fields: dict[str, Any], param: str
) -> None:
    async with chatting(tokenizer, "never") as chat:
        call = await chat(**fields)
    assert (call.status, call.json()["error"]["param"]) == (400, param)
    assert chat.runtime.calls == []


async def test_streamed_answers_are_told_apart(tokenizer: ChatTokenizer) -> None:
    async with chatting(tokenizer, "Hello é") as chat:
        found = deltas(await chat(n=2, stream=True))
    for index in (0, 1):
        own = [one for one in found if one["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(one["delta"].get("content", "") for one in own) == "Hello é"
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == ["stop"]


async def test_fields_of_bookkeeping_change_nothing(tokenizer: ChatTokenizer) -> None:
    async with chatting(tokenizer, "Hello") as chat:
        call = await chat(user="me", metadata={"a": "b"}, store=True, max_completion_tokens=2)
    assert call.json()["choices"][0]["message"]["content"] == "He"
    assert call.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_parts_of_text_are_one_text(tokenizer: ChatTokenizer) -> None:
    parts = [{"type": "text", "text": "hi "}, {"type": "text", "text": "~"}]
    async with chatting(tokenizer, "ok") as chat:
        call = await chat(messages=[{"role": "user", "content": parts}])
    assert call.json()["choices"][0]["message"]["content"] == "ok"
    assert len(byte_tokens("ok")) + 1 == call.json()["usage"]["completion_tokens"]
