"""The stock SDKs, unchanged, on every endpoint of a gateway process; one backend runs nothing."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from langchain_openai import ChatOpenAI

from fungible.config import BackendSettings, Config, GatewaySettings, KeySettings, RouteSettings
from support.control_setup import write_config
from support.processes import Server
from support.rows import rows

KEY = "fk-secret"
TEXT = "Grüße aus Köln"
ARGUMENTS = {"city": "Paris", "days": 2}
CALL = {"name": "Forecast", "arguments": ARGUMENTS}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOL: Any = {"type": "function", "function": {"name": "Forecast", "parameters": PARAMETERS}}
PIECE = "tool_calls.function.arguments.delta"
HELLO: list[Any] = [{"role": "user", "content": "good morning"}]


class World:
    """A gateway process and the SDKs' clients in front of it."""

    def __init__(self, config: Config, url: str) -> None:
        self.config = config
        self.url = url
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        self.anthropic = anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0)

    def counts(self) -> list[tuple[str, str, int | None, int | None]]:
        """What the ledger is told of each attempt."""
        found = rows(self.config.spool_path())
        return [(row.endpoint, row.status, row.in_uncached, row.out_visible) for row in found]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    config = Config(
        home=str(tmp_path),
        gateway=GatewaySettings(port=0),
        backend={
            "a": BackendSettings(kind="null", options={"text": TEXT}),
            "caller": BackendSettings(kind="null", options={"text": TEXT, "tool": CALL}),
            "json": BackendSettings(kind="null", options={"text": '{"city": "Paris", "days": 2}'}),
            "cut": BackendSettings(kind="null", options={"text": TEXT, "cut_after": 1}),
        },
        route={
            "assistant": RouteSettings(reference="a", retries=0),
            "calling": RouteSettings(reference="caller", retries=0),
            "structured": RouteSettings(reference="json", retries=0),
            "broken": RouteSettings(reference="cut", retries=0),
        },
        key={"team": KeySettings(hash=digest, owner="ml")},
    )
    server = Server("gateway", "serve", "--config", str(write_config(config)))
    await asyncio.to_thread(server.start)
    world = World(config, server.url)
    try:
        yield world
    finally:
        await world.openai.close()
        await world.anthropic.close()
        await asyncio.to_thread(server.stop)


async def test_openai_completions(world: World) -> None:
    create = world.openai.completions.create
    whole = await create(model="assistant", prompt="good morning")
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (TEXT, "stop")
    stream = await create(model="assistant", prompt="good morning", max_tokens=2, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Grüße aus"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert world.counts() == [("completions", "ok", 2, 3), ("completions", "ok", 2, 2)]


async def test_openai_embeddings(world: World) -> None:
    create = world.openai.embeddings.create
    coded = await create(model="assistant", input=["good morning", "evening"])
    plain = await create(model="assistant", input="evening", encoding_format="float")
    assert coded.data[1].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert coded.usage.prompt_tokens == 3
    assert world.counts() == [("embeddings", "ok", 3, 0), ("embeddings", "ok", 1, 0)]


async def test_openai_responses(world: World) -> None:
    whole = await world.openai.responses.create(
        model="assistant", instructions="be brief", input="good morning"
    )
    assert (whole.output_text, whole.status) == (TEXT, "completed")
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (4, 3)
    async with world.openai.responses.stream(model="assistant", input="good morning") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == TEXT
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert world.counts() == [("responses", "ok", 4, 3), ("responses", "ok", 2, 3)]


async def test_anthropic_messages(world: World) -> None:
    raw = await world.anthropic.messages.with_raw_response.create(
        model="assistant",
        max_tokens=2,
        system="be brief",
        messages=HELLO,
        metadata={"user_id": "u1"},
        service_tier="auto",
    )
    whole = await raw.parse()
    assert raw.headers["x-fungible-dropped"] == "service_tier"
    assert whole.content[0].type == "text"
    assert (whole.content[0].text, whole.stop_reason) == ("Grüße aus", "max_tokens")
    async with world.anthropic.messages.stream(
        model="assistant", max_tokens=9, messages=HELLO
    ) as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert (text, final.stop_reason) == (TEXT, "end_turn")
    assert (final.usage.input_tokens, final.usage.output_tokens) == (2, 3)
    count = await world.anthropic.messages.count_tokens(model="assistant", messages=HELLO)
    assert count.input_tokens == 2
    assert world.counts() == [
        ("messages", "ok", 4, 2),
        ("messages", "ok", 2, 3),
        ("messages/count_tokens", "ok", 0, 0),
    ]
    assert rows(world.config.spool_path())[0].session == "u1"


async def test_errors_are_the_sdks_own_classes(world: World) -> None:
    messages = world.anthropic.messages
    with pytest.raises(anthropic.NotFoundError, match="nothing-like-it"):
        await messages.create(model="nothing-like-it", max_tokens=1, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await messages.create(model="assistant", max_tokens=0, messages=HELLO)
    stranger = world.anthropic.with_options(api_key="fk-wrong")
    with pytest.raises(anthropic.AuthenticationError):
        await stranger.messages.create(model="assistant", max_tokens=1, messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        await world.openai.responses.create(
            model="assistant", input="hi", previous_response_id="resp_1"
        )


async def test_a_broken_stream_says_so_in_each_format(world: World) -> None:
    seen: list[Any] = []

    async def read(making: Awaitable[AsyncIterator[Any]]) -> None:
        async for event in await making:
            seen.append(event)

    asked: Any = {"model": "broken", "stream": True}
    with pytest.raises(anthropic.APIStatusError, match="cut"):
        await read(world.anthropic.messages.create(max_tokens=9, messages=HELLO, **asked))
    with pytest.raises(openai.APIError, match="cut"):
        await read(world.openai.completions.create(prompt="hi", **asked))
    with pytest.raises(openai.APIError, match="cut"):
        await read(world.openai.responses.create(input="hi", **asked))
    assert {event.type for event in seen if hasattr(event, "type")} >= {
        "content_block_delta",
        "response.output_text.delta",
    }
    assert [row.status for row in rows(world.config.spool_path())] == ["interrupted"] * 3


class Forecast(pydantic.BaseModel):
    """The weather of the next days."""

    city: str
    days: int


async def test_openai_tools(world: World) -> None:
    turns = [*HELLO]
    create = world.openai.chat.completions.create
    whole = await create(model="calling", messages=turns, tools=[TOOL])
    assert whole.choices[0].finish_reason == "tool_calls"
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("Forecast", ARGUMENTS)
    async with world.openai.chat.completions.stream(
        model="calling", messages=turns, tools=[TOOL], stream_options={"include_usage": True}
    ) as stream:
        pieces = [one.arguments_delta async for one in stream if one.type == PIECE]
        final = await stream.get_final_completion()
    assert len(pieces) > 2
    (streamed,) = final.choices[0].message.tool_calls or []
    assert json.loads("".join(pieces)) == json.loads(streamed.function.arguments) == ARGUMENTS
    turns += [
        whole.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    after = await create(model="calling", messages=turns, tools=[TOOL])
    assert (after.choices[0].message.content, after.choices[0].finish_reason) == (TEXT, "stop")
    assert [row[:2] for row in world.counts()] == [("chat/completions", "ok")] * 3
    assert {row.finish_reason for row in rows(world.config.spool_path())} == {"tool_calls", "stop"}
    assert final.usage is not None
    assert world.counts()[0][3] == final.usage.completion_tokens == len(pieces)


async def test_anthropic_tool_use(world: World) -> None:
    turns: list[Any] = [*HELLO]
    tools: list[Any] = [{"name": "Forecast", "input_schema": PARAMETERS}]
    asked: Any = {"model": "calling", "max_tokens": 99, "tools": tools}
    whole = await world.anthropic.messages.create(messages=turns, **asked)
    assert whole.stop_reason == "tool_use"
    (use,) = whole.content
    assert use.type == "tool_use"
    assert (use.name, use.input) == ("Forecast", ARGUMENTS)
    async with world.anthropic.messages.stream(messages=turns, **asked) as stream:
        pieces = [one.partial_json async for one in stream if one.type == "input_json"]
        final = await stream.get_final_message()
    assert len(pieces) > 2
    (streamed,) = final.content
    assert streamed.type == "tool_use"
    assert json.loads("".join(pieces)) == streamed.input == ARGUMENTS
    assert final.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    turns += [
        {"role": "assistant", "content": whole.content},
        {"role": "user", "content": [result]},
    ]
    after = await world.anthropic.messages.create(messages=turns, **asked)
    assert after.content[0].type == "text"
    assert (after.content[0].text, after.stop_reason) == (TEXT, "end_turn")
    assert [row[:2] for row in world.counts()] == [("messages", "ok")] * 3


def langchain(world: World, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{world.url}/v1", api_key=KEY)  # type: ignore[arg-type]


def test_langchain(world: World) -> None:
    model = langchain(world, "assistant")
    answer = model.invoke("good morning")
    assert answer.content == TEXT
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3
    assert "".join(str(part.content) for part in model.stream("good morning")) == TEXT


def test_langchain_tools(world: World) -> None:
    bound = langchain(world, "calling").bind_tools([Forecast])
    (call,) = bound.invoke("good morning").tool_calls  # type: ignore[attr-defined]
    assert (call["name"], call["args"]) == ("Forecast", ARGUMENTS)
    whole: Any = None
    for part in bound.stream("good morning"):
        whole = part if whole is None else whole + part
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [("Forecast", ARGUMENTS)]


@pytest.mark.parametrize(
    ("method", "model"), [("function_calling", "calling"), ("json_schema", "structured")]
)
def test_langchain_structured_output(world: World, method: Any, model: str) -> None:
    structured = langchain(world, model).with_structured_output(Forecast, method=method)
    assert structured.invoke("good morning") == Forecast(city="Paris", days=2)
