"""Formats and tools, driven by the stock OpenAI client against real engine processes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest

from support.engine_process import start, stop
from support.tiny_model import build_tiny_artifact


class Pet(pydantic.BaseModel):
    kind: Literal["cat", "dog"]
    friendly: bool


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    home = tmp_path_factory.mktemp("home")
    build_tiny_artifact(home / "artifacts", variants=["f32"])
    process, address = start(home)
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as one:
        yield one
    stop(process)


def test_an_answer_is_parsed_into_a_class(client: openai.OpenAI) -> None:
    for seed in range(3):
        answer = client.chat.completions.parse(
            model="tiny",
            messages=[{"role": "user", "content": "Which pet?"}],
            response_format=Pet,
            seed=seed,
        )
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(answer.choices[0].message.parsed, Pet)


@pytest.mark.model
def test_the_real_model_calls_a_tool_and_is_told_its_result(
    real_artifact: Path, tmp_path: Path
) -> None:
    messages: Any = [{"role": "user", "content": "How warm is it in Paris, in celsius?"}]
    process, address = start(
        tmp_path, "--artifact", str(real_artifact), "--context", "1024", "--threads", "2"
    )
    try:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="tiny",
                messages=messages,
                tools=[TOOL],
                tool_choice="required",
                parallel_tool_calls=False,
                temperature=0,
                max_tokens=100,
            )
            messages += [
                answer.choices[0].message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": "call_1", "content": "21"},
            ]
            told = client.chat.completions.create(
                model="tiny", messages=messages, tools=[TOOL], max_tokens=8
            )
    finally:
        stop(process)
    assert told.choices[0].message.role == "assistant"
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["unit"] in ("celsius", "fahrenheit")
