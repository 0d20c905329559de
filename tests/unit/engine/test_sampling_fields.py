from typing import Any

import pytest

from fungible.engine.sampler import SamplingParams
from fungible.engine.sampling_fields import sampling_from
from fungible.errors import RequestError

VOCAB = 100


@pytest.mark.parametrize("raw", [{}, {"temperature": None, "n": None, "stop": None, "top_k": -1}])
def test_defaults_are_openais(raw: dict[str, Any]) -> None:
    settings = sampling_from(raw, VOCAB)
    assert settings.sampling == SamplingParams()
    assert (settings.count, settings.stops, settings.ignore_eos) == (1, (), False)
    assert (settings.stop_token_ids, settings.min_tokens) == (frozenset(), 0)
    assert settings.prompt_logprobs is None


def test_every_field_is_read() -> None:
    controls: dict[str, Any] = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "seed": -3,
        "presence_penalty": -2,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.1,
    }
    ends = {"stop": "a", "stop_token_ids": [5, 6], "min_tokens": 2, "ignore_eos": True}
    raw = {**controls, **ends, "n": 3, "logit_bias": {"9": -100}, "prompt_logprobs": 4}
    settings = sampling_from(raw, VOCAB, top_logprobs=2)
    assert settings.sampling == SamplingParams(**controls, logit_bias={9: -100.0}, top_logprobs=2)
    assert (settings.stops, settings.stop_token_ids) == (("a",), frozenset({5, 6}))
    assert (settings.min_tokens, settings.ignore_eos, settings.count) == (2, True, 3)
    assert settings.prompt_logprobs == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 129),
        ("n", True),
        ("temperature", -0.1),
        ("temperature", "warm"),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 2),
        ("presence_penalty", 3),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e300),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"100": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"one": 1}),
        ("logit_bias", {"1": "much"}),
        ("logit_bias", [1]),
        ("seed", 0.5),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop_token_ids", [100]),
        ("min_tokens", -1),
        ("ignore_eos", 1),
        ("prompt_logprobs", 21),
    ],
)
def test_what_is_out_of_range_or_of_another_type_is_named(name: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        sampling_from({name: value}, VOCAB)
    assert caught.value.param == name
    assert name in caught.value.message


def test_an_item_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(RequestError) as caught:
        sampling_from({"stop_token_ids": [1, "2"]}, VOCAB)
    assert caught.value.param == "stop_token_ids[1]"
