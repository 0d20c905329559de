"""The stock SDKs, unchanged, through a gateway process to an engine that runs the real model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from fungible.config import BackendSettings, Config, GatewaySettings, RouteSettings
from support.control_setup import write_config
from support.engine_process import start, stop
from support.processes import Server
from support.rows import rows

pytestmark = pytest.mark.model
HELLO: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
ASKED: Any = {"model": "assistant", "messages": HELLO, "max_tokens": 24}
GREEDY: Any = {"temperature": 0}  # which Anthropic's client has as an extra field only


@pytest.fixture
async def gateway(real_artifact: Path, tmp_path: Path) -> AsyncIterator[tuple[Config, str]]:
    engine, address = await asyncio.to_thread(
        start, tmp_path, "--artifact", str(real_artifact), "--context", "512", "--threads", "2"
    )
    config = Config(
        home=str(tmp_path),
        gateway=GatewaySettings(port=0),
        backend={
            "local": BackendSettings(
                url=f"{address}/v1", model="tiny", options={"endpoints": ["tokenize"]}
            )
        },
        route={"assistant": RouteSettings(reference="local", retries=0)},
    )
    server = Server("gateway", "serve", "--config", str(write_config(config)))
    await asyncio.to_thread(server.start)
    try:
        yield config, server.url
    finally:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(stop, engine)


async def test_both_sdks_get_the_same_words_whole_and_streamed(gateway: tuple[Config, str]) -> None:
    config, url = gateway
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        create = client.chat.completions.create
        whole = await create(**ASKED, **GREEDY)
        text = whole.choices[0].message.content
        assert text
        assert "Paris" in text
        assert whole.usage is not None
        counts = (whole.usage.prompt_tokens, whole.usage.completion_tokens)
        chunks = [chunk async for chunk in await create(**ASKED, **GREEDY, stream=True)]
        assert "".join(one.choices[0].delta.content or "" for one in chunks) == text
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        response = await client.responses.create(
            model="assistant", input=HELLO, max_output_tokens=24, temperature=0
        )
        assert response.output_text == text
        async with client.responses.stream(
            model="assistant", input=HELLO, max_output_tokens=24, temperature=0
        ) as events:
            pieces = [one.delta async for one in events if one.type == "response.output_text.delta"]
        assert "".join(pieces) == text
    async with anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=0) as other:
        message = await other.messages.create(**ASKED, extra_body=GREEDY)
        assert message.content[0].type == "text"
        assert message.content[0].text == text
        async with other.messages.stream(**ASKED, extra_body=GREEDY) as stream:
            said = "".join([part async for part in stream.text_stream])
            final = await stream.get_final_message()
        assert said == text
        assert (final.usage.input_tokens, final.usage.output_tokens) == counts
        counted = await other.messages.count_tokens(model="assistant", messages=HELLO)
        assert counted.input_tokens == counts[0]
    found = rows(config.spool_path())
    answered = [row for row in found if row.endpoint != "messages/count_tokens"]
    assert len(answered) == 6
    assert {(row.status, row.usage_source) for row in answered} == {("ok", "provider_final")}
    assert {row.out_visible for row in answered} == {counts[1]}
    # What was in the engine's prefix cache is told apart, and is part of the same prompt.
    assert {(row.in_uncached or 0) + (row.in_cache_read or 0) for row in answered} == {counts[0]}
    assert len({row.output_hash for row in answered}) == 1
