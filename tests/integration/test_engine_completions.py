"""`/v1/completions` of a real engine process, driven by the stock OpenAI client."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.engine_process import start, stop
from support.tiny_model import TOKENS, build_tiny_artifact

ASK: dict[str, Any] = {
    "model": "tiny",
    "prompt": "the sea and the",
    "max_tokens": 8,
    "temperature": 0,
    "extra_body": {"ignore_eos": True},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    home = tmp_path_factory.mktemp("home")
    build_tiny_artifact(home / "artifacts", variants=["f32"])
    process, address = start(home, "--slots", "4")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as one:
        yield one
    assert stop(process) == ""


def test_an_answer_and_its_stream(client: openai.OpenAI) -> None:
    whole = client.completions.create(**ASK)
    chunks = list(
        client.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    )
    assert whole.object == "text_completion"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    assert "".join(one.choices[0].text for one in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_several_answers_to_several_prompts(client: openai.OpenAI) -> None:
    asked = {**ASK, "prompt": ["the sea", "a user is"], "temperature": 1.3, "seed": 5}
    together = client.completions.create(**asked, n=3)
    assert [one.index for one in together.choices] == list(range(6))
    assert len({one.text for one in together.choices}) > 3
    again = client.completions.create(**asked, n=3)
    assert [one.text for one in again.choices] == [one.text for one in together.choices]


def test_echo_and_log_probabilities(client: openai.OpenAI) -> None:
    found = client.completions.create(**ASK, logprobs=3).choices[0]
    assert found.logprobs is not None
    assert found.logprobs.tokens is not None
    assert len(found.logprobs.tokens) == len(found.logprobs.token_logprobs or []) == 8
    assert all(value <= 0 for value in found.logprobs.token_logprobs or [])
    echoed = client.completions.create(**ASK, echo=True).choices[0]
    assert echoed.text == ASK["prompt"] + found.text


def test_further_controls(client: openai.OpenAI) -> None:
    plain = client.completions.create(**ASK).choices[0].text
    narrow = {**ASK, "temperature": 2, "extra_body": {"ignore_eos": True, "top_k": 1}}
    assert client.completions.create(**narrow).choices[0].text == plain
    likely = {**ASK, "temperature": 2, "extra_body": {"ignore_eos": True, "min_p": 1}}
    assert client.completions.create(**likely).choices[0].text == plain
    body = {"ignore_eos": True, "repetition_penalty": 50.0}
    fresh = client.completions.create(**{**ASK, "max_tokens": 40, "extra_body": body}, logprobs=0)
    assert fresh.choices[0].logprobs is not None
    tokens = fresh.choices[0].logprobs.tokens or []
    assert len(set(tokens)) == len(tokens), "nothing is said twice"
    assert client.completions.create(**ASK, logit_bias={"70": 100}).choices[0].text != plain


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"top_k": 1.5}}, "top_k"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 4}, "best_of"),
    ],
)
def test_bad_requests_name_the_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{**ASK, **fields})
    assert caught.value.param == param
    assert caught.value.request_id, "the response names its request"


def test_scores_of_an_echoed_prompt_are_those_of_the_answer(client: openai.OpenAI) -> None:
    """What the model said of its own tokens, it says again when it is asked to score them."""
    capitals = {str(TOKENS.index(chr(code))): 100 for code in range(ord("A"), ord("Z") + 1)}
    likely = {**ASK, "frequency_penalty": 2}
    said = client.completions.create(**likely, logit_bias=capitals, logprobs=2).choices[0]
    asked = {**ASK, "prompt": ASK["prompt"] + said.text, "max_tokens": 0}
    answer = client.completions.create(**asked, echo=True, logprobs=2)
    scored = answer.choices[0]
    assert (scored.text, scored.finish_reason) == (asked["prompt"], "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert said.logprobs is not None
    assert scored.logprobs is not None
    tokens, values = scored.logprobs.tokens or [], scored.logprobs.token_logprobs or []
    assert len(tokens) == len(values) == answer.usage.prompt_tokens
    assert values[0] is None
    assert "".join(tokens) == asked["prompt"]
    assert (scored.logprobs.text_offset or [])[-1] == len(asked["prompt"]) - len(tokens[-1])
    assert tokens[-8:] == said.logprobs.tokens
    assert values[-8:] == pytest.approx(said.logprobs.token_logprobs, abs=1e-3)
