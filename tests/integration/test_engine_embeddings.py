"""A real engine process with an embedding model, driven by the stock OpenAI client."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from support.engine_process import start, stop
from support.tiny_encoder import (
    CONTEXT,
    NAME,
    WIDTH,
    apart,
    build,
    expected,
    texts,
    token_rows,
    write_checkpoint,
)

OPTIONS = ("--artifact", NAME, "--context", str(CONTEXT))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("home")
    build(write_checkpoint(directory / NAME), directory / "artifacts")
    return directory


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    process, address = start(home, *OPTIONS)
    yield address
    errors = stop(process)
    assert process.returncode == 0
    assert errors == ""


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as one:
        yield one


def _rows(answer: Any) -> Any:
    return np.array([item.embedding for item in answer.data], np.float32)


def test_embeddings_of_texts_and_of_tokens(client: openai.OpenAI) -> None:
    wanted = expected()["gelu.mean"]
    # The client asks for base64 unless told otherwise, and decodes it.
    packed = client.embeddings.create(model="tiny", input=texts())
    assert apart(_rows(packed), wanted) < 1e-5
    assert [item.index for item in packed.data] == list(range(len(texts())))
    assert (packed.object, packed.data[0].object, packed.model) == ("list", "embedding", "tiny")
    assert packed.usage.prompt_tokens == packed.usage.total_tokens == sum(map(len, token_rows()))
    plain = client.embeddings.create(model="tiny", input=texts(), encoding_format="float")
    assert apart(_rows(plain), wanted) < 1e-5
    tokens = client.embeddings.create(model="tiny", input=token_rows(), dimensions=WIDTH)
    assert apart(_rows(tokens), wanted) < 1e-5
    for one in (texts()[0], token_rows()[0]):
        answer = client.embeddings.create(model="tiny", input=one)
        assert apart(_rows(answer), wanted[:1]) < 1e-5


@pytest.mark.parametrize("target", ["openvino:cpu", "xla:cpu"])
def test_every_target_answers_the_same(home: Path, target: str) -> None:
    process, address = start(home, *OPTIONS, "--target", target)
    try:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            found = _rows(client.embeddings.create(model="tiny", input=texts()))
    finally:
        errors = stop(process)
    assert apart(found, expected()["gelu.mean"]) < 1e-5
    assert (process.returncode, errors) == (0, "")


def test_the_bytes_are_little_endian_floats(url: str) -> None:
    ask = {"model": "tiny", "input": ["x"], "encoding_format": "base64"}
    request = urllib.request.Request(f"{url}/v1/embeddings", json.dumps(ask).encode())
    with urllib.request.urlopen(request) as answer:
        body = json.load(answer)
    row = np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), "<f4")
    assert apart(row[None], expected()["gelu.mean"][1:2]) < 1e-5


def test_many_texts_are_answered_in_order(client: openai.OpenAI) -> None:
    order = [number % 4 for number in range(50)]
    answer = client.embeddings.create(model="tiny", input=[texts()[at] for at in order])
    assert apart(_rows(answer), expected()["gelu.mean"][order]) < 1e-5


LONG = "boat " * 60


@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"model": "other"}, 404, "model", "'other' is not served here"),
        ({"input": []}, 400, "input", "not empty"),
        ({"input": ["x", ""]}, 400, "input[1]", "empty"),
        ({"input": ["x", 5]}, 400, "input[1]", "a list of strings"),
        ({"input": [[4], [99]]}, 400, "input[1]", "token 99"),
        ({"input": [-1]}, 400, "input[0]", "token -1"),
        ({"input": ["x", LONG]}, 400, "input[1]", "takes 40"),
        ({"input": ["x"] * 2049}, 400, "input", "2048"),
        ({"dimensions": 8}, 400, "dimensions", "32 numbers"),
        ({"dimensions": 0}, 400, "dimensions", "positive"),
        ({"encoding_format": "hex"}, 400, "encoding_format", "hex"),
        ({"extra_body": {"truncate_prompt_tokens": 41}}, 400, "truncate_prompt_tokens", "40"),
        ({"extra_body": {"truncate_prompt_tokens": 0}}, 400, "truncate_prompt_tokens", "positive"),
    ],
)
def test_what_is_wrong_is_said(
    client: openai.OpenAI, fields: dict[str, Any], status: int, param: str, said: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(**({"model": "tiny", "input": "x"} | fields))
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["param"] == param
    assert said in caught.value.body["message"]


def test_long_texts_are_cut_where_asked(client: openai.OpenAI) -> None:
    def embed(text: object, cut: int | None = None) -> Any:
        extra = {} if cut is None else {"truncate_prompt_tokens": cut}
        return client.embeddings.create(model="tiny", input=text, extra_body=extra)  # type: ignore[arg-type]

    whole = embed(LONG, -1)
    assert whole.usage.prompt_tokens == CONTEXT
    # 8 tokens: the start, six of the text, and the end.
    ids = [2, *[10] * 6, 3]
    cut = embed(LONG, 8)
    assert cut.usage.prompt_tokens == 8
    assert apart(_rows(cut), _rows(embed(ids))) < 1e-6


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_it_generates_no_text(url: str, path: str) -> None:
    request = urllib.request.Request(f"{url}/v1/{path}", b"{}")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400
    said = json.load(caught.value)["error"]["message"]
    assert "send texts to /v1/embeddings" in said


def test_models_health_and_metrics(client: openai.OpenAI, url: str) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    with urllib.request.urlopen(f"{url}/health") as answer:
        facts = json.load(answer)
    assert (facts["status"], facts["variant"]) == ("ok", "f32")
    assert facts["artifact"].startswith("sha256:")
    assert facts["target"] == "onnxruntime:cpu"
    client.embeddings.create(model="tiny", input="x")
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        page = answer.read().decode()
    tokens = next(line for line in page.splitlines() if line.startswith("vllm:prompt_tokens_total"))
    assert float(tokens.split()[-1]) >= 3
    assert 'vllm:num_requests_waiting{model_name="tiny"} 0' in page


def test_a_step_log_is_for_generated_text(home: Path) -> None:
    path = home / "steps.jsonl"
    process, _ = start(home, *OPTIONS, "--step-log", str(path))
    errors = stop(process)
    assert process.returncode == 0
    assert errors == "note: an embedding model has no steps; --step-log is left out\n"
    assert not path.exists()
