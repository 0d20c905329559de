import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette

from fungible.artifacts.manifest import Manifest
from fungible.engine.scheduler import Scheduler
from fungible.engine.server import build_app
from fungible.engine.tokenizer import ChatTokenizer
from support.asgi import Call
from support.engine_setup import EOS, script
from support.history_runtime import HistoryRuntime
from support.tiny_model import CONFIG, TOKENS

PATH = "/v1/chat/completions"
MANIFEST = Manifest(
    name="tiny",
    digest="sha256:abc",
    source="tiny",
    source_digest="sha256:def",
    recipe=1,
    licence="apache-2.0",
    created="2026-01-02T03:04:05+00:00",
    config=CONFIG,
    files={},
    variants={},
    versions={},
)


class Served:
    """An application and the runtime under it."""

    def __init__(self, app: Starlette, runtime: HistoryRuntime, scheduler: Scheduler) -> None:
        self.app, self.runtime, self.scheduler = app, runtime, scheduler

    def chat(self, **fields: Any) -> Call:
        """Send a chat request; the scripted model answers after the `~` in it."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi ~"}], **fields}
        return Call(self.app, "POST", PATH, body)

    def get(self, path: str) -> Call:
        return Call(self.app, "GET", path, b"")


@pytest.fixture
def served(tokenizer: ChatTokenizer) -> Any:
    @asynccontextmanager
    async def start(text: str = "Hello é", **options: Any) -> AsyncIterator[Served]:
        queue = options.pop("max_waiting", 128)
        context = options.pop("context", 256)
        gate = options.get("gate")
        tail = len(tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n"))
        runtime = HistoryRuntime(
            len(TOKENS), context=context, next_token=script(text, tail=tail), **options
        )
        scheduler = Scheduler(runtime, tokenizer, eos_ids=frozenset({EOS}), max_waiting=queue)
        app = build_app(scheduler, tokenizer, MANIFEST, target="test:cpu", variant="f32")
        async with app.router.lifespan_context(app):
            try:
                yield Served(app, runtime, scheduler)
            finally:
                if gate is not None:
                    gate.release(10_000)

    return start


async def until(condition: Any) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        await asyncio.sleep(0.002)


async def test_a_whole_answer(served: Any) -> None:
    async with served() as engine:
        call = await engine.chat().done()
    assert call.status == 200
    assert call.headers["content-type"] == "application/json"
    body = call.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello é"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = body["usage"]
    assert usage["completion_tokens"] == 9
    assert usage["total_tokens"] == usage["prompt_tokens"] + 9


async def test_a_stream(served: Any) -> None:
    async with served() as engine:
        call = await engine.chat(stream=True, stream_options={"include_usage": True}).done()
        plain = await engine.chat(stream=True).done()
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, usage, done = call.events()
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 9
    assert {chunk["id"] for chunk in chunks} == {usage["id"]}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(one["delta"].get("content", "") for one in choices) == "Hello é"
    assert choices[-1]["delta"] == {}
    assert [one["finish_reason"] for one in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert plain.events()[-1] == "[DONE]"
    assert all(not event["usage"] and event["choices"] for event in plain.events()[:-1])


async def test_tokens_go_out_as_they_come(served: Any) -> None:
    gate = threading.Semaphore(0)
    async with served(gate=gate) as engine:
        call = engine.chat(stream=True)
        gate.release(1)
        await until(lambda: b'"content":"H"' in call.body)
        assert not call.task.done()
        gate.release(1)
        await until(lambda: b'"content":"e"' in call.body)
        gate.release(100)
        assert (await call.done()).events()[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_and_max_tokens(served: Any, stream: bool) -> None:
    async with served("one two three") as engine:
        stopped = await engine.chat(stream=stream, stop="two").done()
        cut = await engine.chat(stream=stream, max_tokens=99, max_completion_tokens=3).done()
    for call, text, reason in ((stopped, "one ", "stop"), (cut, "one", "length")):
        assert text_of(call, stream) == text
        last = call.events()[-2] if stream else call.json()
        assert last["choices"][0]["finish_reason"] == reason


def text_of(call: Call, stream: bool) -> str:
    if not stream:
        return call.json()["choices"][0]["message"]["content"]
    chunks = [event for event in call.events() if event != "[DONE]"]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities(served: Any, stream: bool) -> None:
    async with served() as engine:
        call = await engine.chat(stream=stream, logprobs=True, top_logprobs=3).done()
        bare = await engine.chat(logprobs=True).done()
    if stream:
        found = [
            entry
            for event in call.events()[:-1]
            for entry in (event["choices"][0]["logprobs"] or {"content": []})["content"]
        ]
    else:
        found = call.json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in found for byte in entry["bytes"]).decode() == "Hello é"
    assert all(entry["top_logprobs"][0]["token"] == entry["token"] for entry in found)
    assert all(len(entry["top_logprobs"]) == 3 and entry["logprob"] <= 0 for entry in found)
    assert bare.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
        ({"messages": []}, 400, "messages", "invalid_request"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", None),
        ({"n": 129}, 400, "n", "invalid_request"),
        ({"max_tokens": 0}, 400, "max_tokens", None),
        ({"temperature": "warm"}, 400, "temperature", None),
        ({"top_logprobs": 2}, 400, "top_logprobs", None),
        ({"stream": False, "stream_options": {}}, 400, "stream_options", None),
        ({"stop": ["a", ""]}, 400, "stop", None),
        ({"tools": [{"type": "function"}]}, 400, "tools[0].function", None),
        ({"tool_choice": "required"}, 400, "tool_choice", None),
        ({"frequency_penalty": 5}, 400, "frequency_penalty", None),
        ({"logit_bias": {"5": 101}}, 400, "logit_bias", None),
        ({"audio": {"voice": "x"}}, 400, "audio", "unsupported"),
        (
            {"messages": [{"role": "user", "content": "long " * 200}]},
            400,
            "messages",
            "context_length_exceeded",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages[0].content[0]",
            "unsupported",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests_name_the_field(
    served: Any, fields: dict[str, Any], status: int, param: str, code: str | None, stream: bool
) -> None:
    async with served() as engine:
        call = await engine.chat(**{"stream": stream, **fields}).done()
    error = call.json()["error"]
    assert (call.status, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"
    assert code in (None, error["code"])
    assert engine.runtime.calls == [], "nothing was run for it"


async def test_neutral_values_of_unsupported_fields_are_fine(served: Any) -> None:
    async with served() as engine:
        call = await engine.chat(
            tools=None, logit_bias={}, presence_penalty=0, response_format={"type": "text"}, n=1
        ).done()
    assert call.status == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"model": "tiny"}', b'"\\ud800"'])
async def test_a_body_that_is_not_a_chat_request(served: Any, body: bytes) -> None:
    async with served() as engine:
        call = await Call(engine.app, "POST", PATH, body).done()
    assert call.status == 400
    assert "request body" in call.json()["error"]["message"]


async def test_a_body_that_is_too_large(served: Any) -> None:
    async with served() as engine:
        call = await Call(engine.app, "POST", PATH, b" " * 10_000_001).done()
    assert call.status == 400
    assert "larger than" in call.json()["error"]["message"]


async def test_a_full_queue_says_when_to_come_back(served: Any) -> None:
    gate = threading.Semaphore(0)
    async with served(gate=gate, slots=1, max_waiting=1) as engine:
        first = engine.chat()
        await until(lambda: engine.scheduler._active)
        second = engine.chat()
        await until(lambda: engine.scheduler._waiting)
        refused = await engine.chat().done()
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "upstream_busy"
        gate.release(100)
        assert {(await call.done()).status for call in (first, second)} == {200}


async def test_a_broken_stream_says_so_and_is_not_done(served: Any) -> None:
    def fault(_: str, number: int) -> None:
        if number == 3:
            raise RuntimeError("device lost")

    async with served(fault=fault) as engine:
        call = await engine.chat(stream=True).done()
    events = call.events()
    assert text_of_chunks(events[:-1]) == "Hel"
    assert "device lost" in events[-1]["error"]["message"]
    assert events[-1]["error"]["code"] == "engine_error"
    assert "[DONE]" not in events


def text_of_chunks(events: list[Any]) -> str:
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_token_is_a_status(served: Any, stream: bool) -> None:
    def fault(name: str, _: int) -> None:
        if name == "prefill":
            raise RuntimeError("device lost")

    async with served(fault=fault) as engine:
        for _ in range(3):
            call = await engine.chat(stream=stream).done()
            assert call.status == 500
            assert "device lost" in call.json()["error"]["message"]
        health = await engine.get("/health").done()
    assert health.status == 503
    assert "steps failed" in health.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot(served: Any, stream: bool) -> None:
    gate = threading.Semaphore(0)
    async with served("x" * 200, gate=gate, slots=1) as engine:
        left = engine.chat(stream=stream)
        gate.release(3)
        await until(lambda: len(engine.runtime.calls) == 3)
        left.leave()
        await asyncio.sleep(0.01)
        gate.release(1)
        await left.done()
        assert "[DONE]" not in left.body.decode()
        assert not engine.scheduler._active
        assert engine.runtime.names().count("decode") <= 4
        gate.release(1000)
        assert (await engine.chat(max_tokens=2).done()).status == 200


async def test_a_stream_that_the_server_cuts_says_so(served: Any) -> None:
    gate = threading.Semaphore(0)
    async with served(gate=gate) as engine:
        call = engine.chat(stream=True)
        gate.release(2)
        await until(lambda: b'"content":"e"' in call.body)
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.done()
    assert "shutting down" in call.events()[-1]["error"]["message"]


async def test_models_health_and_metrics(served: Any) -> None:
    async with served() as engine:
        models = (await engine.get("/v1/models").done()).json()
        health = (await engine.get("/health").done()).json()
        await engine.chat().done()
        metrics = await engine.get("/metrics").done()
    assert models["data"][0] == {
        "id": "tiny",
        "object": "model",
        "owned_by": "fungible",
        "created": 1767323045,
    }
    assert health == {
        "status": "ok",
        "model": "tiny",
        "artifact": "sha256:abc",
        "variant": "f32",
        "target": "test:cpu",
    }
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    page = metrics.body.decode()
    assert 'vllm:generation_tokens_total{model_name="tiny"} 9\n' in page
    assert 'vllm:request_success_total{model_name="tiny",finished_reason="stop"} 1\n' in page
    assert 'vllm:time_to_first_token_seconds_bucket{model_name="tiny",le="+Inf"} 1\n' in page
    assert "vllm:num_requests_running" in page


@pytest.mark.parametrize(("method", "path", "status"), [("GET", PATH, 405), ("GET", "/v2", 404)])
async def test_other_addresses_answer_in_the_same_form(
    served: Any, method: str, path: str, status: int
) -> None:
    async with served() as engine:
        call = await Call(engine.app, method, path, b"").done()
    assert call.status == status
    assert path in call.json()["error"]["message"]


async def test_a_model_that_generates_text_has_no_embeddings(served: Any) -> None:
    async with served() as one:
        call = await Call(one.app, "POST", "/v1/embeddings", {"model": "tiny", "input": "x"}).done()
        assert call.status == 400
        assert "generates text and has no embeddings" in call.json()["error"]["message"]
