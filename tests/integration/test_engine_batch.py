"""What else runs in a batch does not change an answer of the real model."""

from pathlib import Path
from typing import Any

import openai
import pytest

from support.engine_process import start, stop

PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time there was a fox who lived near the old mill, and every morning",
    "def add(a, b):\n    return",
]


@pytest.mark.model
def test_greedy_answers_do_not_depend_on_the_batch(real_artifact: Path, tmp_path: Path) -> None:
    options = ("--artifact", str(real_artifact), "--variant", "f32", "--no-prefix-cache")
    process, address = start(tmp_path, *options, "--slots", "4", "--threads", "2")
    asked: dict[str, Any] = {
        "model": "tiny",
        "max_tokens": 16,
        "temperature": 0,
        "logprobs": 1,
        "extra_body": {"ignore_eos": True},
    }
    try:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            together = client.completions.create(prompt=PROMPTS, **asked).choices
            alone = [client.completions.create(prompt=one, **asked).choices[0] for one in PROMPTS]
    finally:
        stop(process)
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in alone}) == 4
    for batched, single in zip(together, alone, strict=True):
        assert batched.logprobs is not None
        assert single.logprobs is not None
        expected = pytest.approx(single.logprobs.token_logprobs, abs=1e-3)
        assert batched.logprobs.token_logprobs == expected
