"""The fields of a request that say how to choose tokens and when to stop.

They mean the same in `/v1/chat/completions` and `/v1/completions`: OpenAI's, and the further
ones that vLLM accepts in either body.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from fungible.contract.openai import MOST_ANSWERS, read_fields
from fungible.engine.sampler import SamplingParams
from fungible.errors import RequestError

_Value = TypeVar("_Value", int, float)

MOST_LOGPROBS = 20
_LARGEST = 1e6  # for numbers that have no upper limit of their own
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("n", 1, MOST_ANSWERS),
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("top_k", -1, _LARGEST),
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("min_tokens", 0, 1 << 20),
    ("prompt_logprobs", 0, MOST_LOGPROBS),
)
_BIAS_LIMIT = 100.0


class _Fields(msgspec.Struct, kw_only=True):
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = None


class AnswerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says about its answers; the names are `GenerationRequest`'s.

    Attributes:
        count: Answers to each prompt (`n`).
        prompt_logprobs: Alternatives to report for each prompt token; `None` reports none.
    """

    count: int
    sampling: SamplingParams
    stops: tuple[str, ...]
    stop_token_ids: frozenset[int]
    min_tokens: int
    ignore_eos: bool
    prompt_logprobs: int | None


def sampling_from(
    raw: Mapping[str, Any],
    vocab: int,
    *,
    top_logprobs: int | None = None,
    max_tokens: int | None = None,
) -> AnswerSettings:
    """Read the settings out of a decoded body; `null` means the default everywhere.

    Args:
        raw: The body.
        vocab: Tokens that the model knows, for the fields that name tokens.
        top_logprobs: Alternatives to report for each token; the two endpoints spell it
            differently, so the caller has read it.
        max_tokens: Most tokens of an answer, read by the caller likewise; `None` sets no limit.

    Raises:
        RequestError: A field has the wrong type or is out of range; names the field.
    """
    fields = read_fields(raw, _Fields)
    _check_ranges(fields)
    _check_fewest(fields.min_tokens or 0, max_tokens)
    bias = fields.logit_bias or {}
    _check_tokens("logit_bias", bias, vocab)
    _check_tokens("stop_token_ids", fields.stop_token_ids or (), vocab)
    sampling = SamplingParams(
        temperature=_or(fields.temperature, 1.0),
        top_p=_or(fields.top_p, 1.0),
        seed=fields.seed,
        top_logprobs=top_logprobs,
        top_k=max(fields.top_k or 0, 0),
        min_p=fields.min_p or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=_or(fields.repetition_penalty, 1.0),
        logit_bias=bias,
    )
    return AnswerSettings(
        count=_or(fields.n, 1),
        sampling=sampling,
        stops=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ()),
        stop_token_ids=frozenset(fields.stop_token_ids or ()),
        min_tokens=fields.min_tokens or 0,
        ignore_eos=fields.ignore_eos is True,
        prompt_logprobs=fields.prompt_logprobs,
    )


def check_number(prompts: int, count: int, capacity: int) -> None:
    """Refuse a request for more answers than can ever be made together.

    Args:
        prompts: How many it has.
        count: Answers to each (`n`).
        capacity: Answers that the engine can make or let wait at once.

    Raises:
        RequestError: There are too many; names the field that is too large.
    """
    if prompts * count <= min(MOST_ANSWERS, capacity):
        return
    asked = f"{prompts} prompts with n = {count} make {prompts * count} answers"
    if prompts * count > MOST_ANSWERS:
        limit, reason = MOST_ANSWERS, f"one request may have {MOST_ANSWERS}"
    else:
        limit, reason = capacity, f"this engine's slots and queue hold {capacity} together"
    raise RequestError(
        f"{asked}; {reason}",
        hint="send several requests, one after the other",
        param="prompt" if prompts > limit else "n",
    )


def _check_fewest(fewest: int, most: int | None) -> None:
    if most is not None and fewest > most:
        raise RequestError(
            f"min_tokens is {fewest}, more than the {most} tokens that the answer may have",
            hint="raise max_tokens",
            param="min_tokens",
        )


def _check_ranges(fields: _Fields) -> None:
    for name, low, high in _RANGES:
        value = getattr(fields, name)
        if value is not None and not low <= value <= high:
            raise RequestError(f"{name} is {value}; it must be in [{low}, {high:g}]", param=name)
    repetition = fields.repetition_penalty
    if repetition is not None and not 0 < repetition <= _LARGEST:
        raise RequestError(
            f"repetition_penalty is {repetition}; it must be more than 0",
            hint="1 changes nothing; 1.1 is mild",
            param="repetition_penalty",
        )
    for token, bias in (fields.logit_bias or {}).items():
        if math.isnan(bias) or abs(bias) > _BIAS_LIMIT:
            raise RequestError(
                f"logit_bias of token {token} is {bias}; it must be in [-100, 100]",
                param="logit_bias",
            )
    if fields.stop == "" or (isinstance(fields.stop, list) and "" in fields.stop):
        raise RequestError("stop must not be an empty string", param="stop")


def _check_tokens(name: str, tokens: Iterable[int], vocab: int) -> None:
    for token in tokens:
        if not 0 <= token < vocab:
            raise RequestError(
                f"{name} names token {token}; this model's tokens are 0 to {vocab - 1}", param=name
            )


def _or(value: _Value | None, default: _Value) -> _Value:
    return default if value is None else value
