"""A real engine process, driven by the stock OpenAI client."""

import asyncio
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from support.engine_process import FUNGIBLE, start, stop
from support.tiny_model import build_tiny_artifact

ASK: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Say something about the sea."}],
    "max_tokens": 12,
    "extra_body": {"ignore_eos": True},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("home")
    build_tiny_artifact(directory / "artifacts", variants=["f32"])
    return directory


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    process, address = start(home, "--slots", "4")
    yield address
    errors = stop(process)
    assert process.returncode == 0
    assert errors == ""


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as one:
        yield one


def test_an_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, temperature=0)
    chunks = list(
        client.chat.completions.create(
            **ASK, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    *rest, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in rest)
    assert text == whole.choices[0].message.content
    assert len(rest) > 5, "it came in pieces"
    assert rest[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage == whole.usage


def test_seeds(client: openai.OpenAI) -> None:
    def text(seed: int) -> str | None:
        answer = client.chat.completions.create(**ASK, seed=seed, temperature=1.5, top_p=0.95)
        return answer.choices[0].message.content

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_stop_strings(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, temperature=0).choices[0].message.content or ""
    stop_string = whole[4:7]
    cut = client.chat.completions.create(**ASK, temperature=0, stop=[stop_string])
    assert cut.choices[0].message.content == whole[: whole.index(stop_string)]
    assert cut.choices[0].finish_reason == "stop"


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, temperature=0, logprobs=True, top_logprobs=5)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert len(found.content) == 12
    for entry in found.content:
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0
        ranked = [other.logprob for other in entry.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)


def test_counters(client: openai.OpenAI, url: str) -> None:
    def generated() -> float:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        name = 'vllm:generation_tokens_total{model_name="tiny"} '
        return float(next(line.removeprefix(name) for line in lines if line.startswith(name)))

    before = generated()
    client.chat.completions.create(**ASK)
    assert generated() == before + 12


async def test_many_at_once_give_what_each_gives_alone(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        async def text(number: int) -> str:
            messages = [{"role": "user", "content": "the sea " * (number + 1)}]
            stream = await client.chat.completions.create(
                **{**ASK, "messages": messages}, temperature=0, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return "".join(pieces)

        alone = [await text(number) for number in range(8)]
        together = await asyncio.gather(*map(text, range(8)))
    assert together == alone


async def test_leaving_a_stream_frees_the_slot(url: str) -> None:
    endless = {**ASK, "max_tokens": None}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for _ in range(12):
            stream = await client.chat.completions.create(**endless, stream=True)
            await anext(aiter(stream))
            await stream.close()
        answer = await client.chat.completions.create(**ASK)
        assert answer.usage is not None


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found"),
        ({"n": 129}, openai.BadRequestError, "invalid_request"),
        (
            {"messages": [{"role": "user", "content": "sea " * 500}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ],
)
def test_errors_reach_the_client_by_kind(
    client: openai.OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{**ASK, **fields})
    assert caught.value.code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_no_process(home: Path, number: int) -> None:
    process, address = start(home)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    stop(process, number)
    assert not [one for one in family if one.is_running()]
    with socket.socket() as probe:
        port = int(address.rsplit(":", 1)[1])
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def refusal(home: Path, *options: str) -> tuple[int, str]:
    """Exit code and stderr of an engine that cannot start."""
    command = [FUNGIBLE, "engine", "serve", "--home", str(home), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=home, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_taken_port_fails_before_the_model_is_loaded(home: Path, tmp_path: Path) -> None:
    # A manifest alone: loading the model would fail with another error.
    source = next((home / "artifacts").glob("*/manifest.json"))
    (tmp_path / "manifest.json").write_bytes(source.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, errors = refusal(home, "--artifact", str(tmp_path), "--port", port)
    assert code == 4
    assert f"127.0.0.1:{port} is in use" in errors
    assert "hint: " in errors


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--artifact", "nothing"], 2, "artifact 'nothing'"),
        (["--artifact", "tiny-llama", "--variant", "int3"], 2, "no variant 'int3'"),
        (["--artifact", "tiny-llama", "--target", "abacus:cpu"], 2, "abacus"),
        (["--artifact", "tiny-llama", "--target", "onnxruntime:gpu"], 2, "onnxruntime:gpu"),
        (["--artifact", "tiny-llama", "--slots", "0"], 2, "--slots"),
    ],
)
def test_what_cannot_be_served_is_named(
    home: Path, options: list[str], code: int, message: str
) -> None:
    found, errors = refusal(home, *options)
    assert found == code
    assert message in errors
    assert "Traceback" not in errors
