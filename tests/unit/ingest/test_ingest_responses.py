"""Logs of every supported format become facts whose leaves partition the stated totals."""

import gzip
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.contract.streams import Observed
from fungible.ingest.responses import Format, Outcome, read_responses
from fungible.ingest.source import items

AT = 1_790_812_801_000_000_000  # 2026-10-01T00:00:01Z
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": AT // 10**9,
    "model": "aster-mini-0101",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "hi"}}],
    "service_tier": "flex",
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "model": "birch-2",
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 3,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 20,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 4,
        "service_tier": "standard",
    },
}
SPEND: dict[str, Any] = {
    "request_id": "chatcmpl-9",
    "call_type": "acompletion",
    "api_key": "88dc28",
    "spend": 0.000123,
    "prompt_tokens": 10,
    "completion_tokens": 2,
    "total_tokens": 12,
    "startTime": "2026-10-01 00:00:01.500000",
    "endTime": "2026-10-01T00:00:02.5Z",
    "completionStartTime": "2026-10-01T00:00:02Z",
    "model": "anthropic/birch-2",
    "model_group": "assistant",
    "custom_llm_provider": "bedrock",
    "api_base": "https://Bedrock.example:443/v1",
    "end_user": "acorn",
    "team_id": "t-1",
    "cache_hit": "False",
    "status": "success",
    "request_tags": '["feature: search", "beta"]',
    "metadata": json.dumps(
        {
            "user_api_key_alias": "web",
            "user_api_key_team_alias": "forest",
            "usage_object": {"cache_read_input_tokens": 4, "cache_creation_input_tokens": 1},
        }
    ),
}
OBSERVATION: dict[str, Any] = {
    "id": "AB12",
    "traceId": "Trace1",
    "type": "GENERATION",
    "startTime": "2026-10-01T00:00:01Z",
    "endTime": "2026-10-01T00:00:03Z",
    "completionStartTime": "2026-10-01T00:00:02Z",
    "model": "aster-mini",
    "usageDetails": {"input": 6, "input_cached_tokens": 4, "output": 5, "total": 15},
    "costDetails": {"total": 0.5},
    "userId": "acorn",
    "level": "DEFAULT",
}


def outcomes(*rows: object, form: Format = "auto") -> list[Outcome]:
    data = b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    found = items(io.BytesIO(data), "log.jsonl")
    return [one for item in found for one in read_responses(item, form, "log.jsonl")]


def fact(row: object, form: Format = "auto") -> Observed:
    (one,) = outcomes(row, form=form)
    assert one.fact is not None, one.reason
    return one.fact


def reason(row: object) -> str:
    (one,) = outcomes(row)
    assert one.fact is None
    return one.reason


def leaves(one: Observed) -> tuple[int | None, ...]:
    fresh, read, written = one.in_uncached, one.in_cache_read, one.in_cache_write
    return fresh, read, written, one.out_visible, one.out_reasoning


def test_an_openai_body_states_id_model_tier_and_leaves() -> None:
    one = fact(CHAT)
    assert leaves(one) == (6, 4, 0, 5, 2)
    assert (one.response_id, one.response_model, one.tier) == (
        "chatcmpl-1",
        "aster-mini-0101",
        "flex",
    )
    assert (one.started_ns, one.ended_ns, one.finish_reason) == (AT, 0, "stop")
    assert (one.usage_source, one.rank, one.source) == ("provider_final", 4, "log.jsonl:line 1")


def test_an_anthropic_bodys_input_is_beside_its_cache() -> None:
    one = fact(MESSAGE)
    assert leaves(one) == (3, 100, 20, 4, 0)
    assert (one.operation, one.tier, one.finish_reason) == ("messages", "standard", "end_turn")


def test_responses_embeddings_and_batches_are_read() -> None:
    usage = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    body = {"id": "resp_1", "object": "response", "created_at": AT // 10**9, "usage": usage}
    assert leaves(fact(body | {"status": "completed"})) == (9, 0, 0, 3, 0)
    vectors = {"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    assert leaves(fact({"id": "e1", "response": vectors, "started_at": AT})) == (8, 0, 0, 0, 0)
    batch = {"custom_id": "c1", "response": {"status_code": 200, "body": CHAT}}
    assert (fact(batch).tier, fact(batch).response_id) == ("batch", "chatcmpl-1")
    result = {"custom_id": "c1", "result": {"type": "succeeded", "message": MESSAGE}}
    assert (fact(result).tier, leaves(fact(result))) == ("batch", (3, 100, 20, 4, 0))


def test_an_envelopes_own_words_win() -> None:
    one = fact(
        {
            "issuer": "Azure_OpenAI",
            "backend": "hosted",
            "url": "https://user@Api.example:8443/v1/chat",
            "started_at": "2026-10-01T02:00:01.25+02:00",
            "first_token_at": AT + 500_000_000,
            "ended_at": (AT + 10**9) / 10**9,
            "customer": "acorn",
            "tags": {"stage": "prod", "none": None},
            "trace_id": "ABC",
            "span_id": "D",
            "request": {"model": "assistant", "stream": True},
            "response": CHAT,
            "cost": "0.10",
            "currency": "usd",
        }
    )
    assert (one.issuer, one.backend, one.server) == (
        "azure.ai.openai",
        "hosted",
        "api.example:8443",
    )
    assert (one.started_ns, one.ended_ns) == (AT + 250_000_000, AT + 10**9)
    assert (one.first_token_ns, one.streamed, one.model) == (AT + 500_000_000, True, "assistant")
    assert (one.trace_id, one.tags, one.stated_cost) == ("abc", {"stage": "prod"}, Decimal("0.10"))


def test_a_logged_stream_is_read_to_its_end_or_its_break() -> None:
    chunk = {"id": "c9", "object": "chat.completion.chunk", "created": AT // 10**9, "model": "m"}
    parts: list[dict[str, Any]] = [
        chunk | {"choices": [{"index": 0, "delta": {"content": "hi"}}]},
        chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        chunk | {"choices": [], "usage": CHAT["usage"]},
    ]
    text = "".join(f"data: {json.dumps(part)}\n\n" for part in parts)
    whole = fact({"stream": text + "data: [DONE]\n\n"})
    assert (whole.response_id, leaves(whole), whole.status) == ("c9", (6, 4, 0, 5, 2), "ok")
    broken = fact({"stream": text[: text.index('"usage"')] + '\n\ndata: {"error":{}}\n\n'})
    assert (broken.status, broken.rank, leaves(broken)) == ("interrupted", 0, (None,) * 5)


def test_what_is_not_stated_stays_unknown() -> None:
    one = fact({name: value for name, value in CHAT.items() if name != "usage"})
    assert (leaves(one), one.usage_source, one.rank) == ((None,) * 5, "none", 0)
    failed = fact({"id": "x", "started_at": AT, "error": {"code": "overloaded"}})
    assert (failed.status, failed.error_code, leaves(failed)) == (
        "error",
        "overloaded",
        (None,) * 5,
    )


def test_litellms_prompt_includes_its_cache() -> None:
    one = fact(SPEND)
    assert leaves(one) == (5, 4, 1, 2, 0)
    assert (one.issuer, one.server, one.model) == (
        "aws.bedrock",
        "bedrock.example:443",
        "assistant",
    )
    assert (one.key, one.owner, one.customer) == ("web", "forest", "acorn")
    assert one.tags == {"feature": "search", "beta": ""}
    assert (one.rank, one.stated_cost, one.stated_currency) == (3, Decimal("0.000123"), "USD")
    assert one.first_token_ns == AT + 10**9
    bare = fact(SPEND | {"metadata": "{}"})
    assert (bare.usage_source, bare.rank) == ("estimated", 1)
    failed = fact(SPEND | {"status": "failure", "prompt_tokens": 0, "completion_tokens": 0})
    assert (failed.status, failed.rank, failed.in_uncached) == ("error", 0, None)
    passed = fact(SPEND | {"call_type": "pass_through_endpoint"})
    assert (passed.operation, passed.in_uncached) == ("pass_through_endpoint", 5)
    batch = {"call_type": "acreate_batch", "prompt_tokens": 0, "completion_tokens": 0}
    skipped = outcomes(SPEND | {"cache_hit": "True"}, SPEND | batch)
    assert [(one.fact, one.reason) for one in skipped] == [(None, ""), (None, "")]


def test_langfuse_in_leaves_and_in_totals() -> None:
    one = fact(OBSERVATION)
    assert (leaves(one), one.trace_id, one.span_id) == ((6, 4, 0, 5, 0), "trace1", "ab12")
    assert (one.customer, one.stated_cost, one.streamed) == ("acorn", Decimal("0.5"), True)
    totals = {"input": 10, "input_cached_tokens": 4, "output": 5, "total": 15}
    assert leaves(fact(OBSERVATION | {"usageDetails": totals})) == (6, 4, 0, 5, 0)
    alone = {"input": 10, "cache_read_input_tokens": 4, "output": 5}
    assert leaves(fact(OBSERVATION | {"usageDetails": alone})) == (10, 4, 0, 5, 0)
    counted = fact(OBSERVATION | {"providedUsageDetails": {}})
    assert (counted.usage_source, counted.rank) == ("estimated", 1)
    assert outcomes(OBSERVATION | {"type": "SPAN"})[0].reason == ""
    (found,) = outcomes({"data": [OBSERVATION], "meta": {"page": 1}})
    assert (found.place, found.fact is not None) == ("line 1, item 1", True)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (CHAT | {"usage": CHAT["usage"] | {"total_tokens": 99}}, "do not add up"),
        (CHAT | {"usage": {"prompt_tokens": 1, "completion_tokens": -1}}, "must be in"),
        (CHAT | {"usage": {"prompt_tokens": 1e30, "completion_tokens": 1}}, "must be in"),
        (CHAT | {"usage": {"prompt_tokens": 1.5, "completion_tokens": 1}}, "not a whole number"),
        (
            CHAT | {"usage": CHAT["usage"] | {"prompt_tokens_details": {"cached_tokens": 11}}},
            "more than the 10 of input",
        ),
        (CHAT | {"created": 17}, "not between the years"),
        (CHAT | {"id": None}, "no id to know it by"),
        ({"response": CHAT, "started_at": AT, "ended_at": AT - 10**9}, "before it began"),
        ({"response": CHAT, "started_at": "yesterday"}, "not a time"),
        (SPEND | {"spend": "lots"}, "not an amount"),
        (
            OBSERVATION | {"usageDetails": {"input": 1, "output": 1, "total": 9}},
            "do not add up",
        ),
        (OBSERVATION | {"usageDetails": {"pages": 3}}, "neither input nor output"),
        ({"hello": 1}, "no response body"),
        (b"[1", "not JSON"),
        (b'{"id": NaN}', "not JSON"),
        (b'{"id": "\xff"}', "not JSON"),
        ([1], "no JSON object"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: object, why: str) -> None:
    found = outcomes({"hello": 2}, row)  # so that an array is a line, not the file
    assert why in found[1].reason
    assert found[1].place == "line 2"


def test_details_beside_the_totals_are_proven_by_the_grand_total() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 18}
    thoughts = usage | {"completion_tokens_details": {"reasoning_tokens": 3}}
    assert leaves(fact(CHAT | {"usage": thoughts})) == (10, 0, 0, 5, 3)
    cached = usage | {"prompt_tokens_details": {"cached_tokens": 3}}
    assert leaves(fact(CHAT | {"usage": cached})) == (10, 3, 0, 5, 0)


def test_the_same_fact_has_the_same_digest_anywhere() -> None:
    one, other = outcomes(CHAT, dict(reversed(CHAT.items())))
    assert one.fact is not None
    assert other.fact is not None
    assert one.fact.digest == other.fact.digest
    assert fact(CHAT | {"model": "other"}).digest != one.fact.digest


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.jsonl.gz", "x.jsonl.zst"])
@pytest.mark.parametrize("shape", ["lines", "array", "pretty", "document"])
def test_lines_arrays_and_documents_also_compressed(name: str, shape: str) -> None:
    rows = [CHAT, MESSAGE]
    text = {
        "lines": "\n".join(map(json.dumps, rows)),
        "array": json.dumps(rows),
        "pretty": json.dumps(rows, indent=2),
        "document": json.dumps({"data": rows}, indent=2),
    }[shape]
    data = text.encode()
    if name.endswith(".gz"):
        half = len(data) // 2
        data = gzip.compress(data[:half]) + gzip.compress(data[half:])
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    found = [
        one for item in items(io.BytesIO(data), name) for one in read_responses(item, "auto", name)
    ]
    assert [one.fact.response_id for one in found if one.fact] == ["chatcmpl-1", "msg_1"]
    assert len(found) == 2


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "bent", "none of it"])
def test_damaged_compression_costs_what_cannot_be_read(name: str, damage: str) -> None:
    text = "\n".join(json.dumps(CHAT | {"id": f"c{number}"}) for number in range(5000)).encode()
    data = gzip.compress(text) if name.endswith("gz") else zstandard.compress(text)
    if damage == "cut":
        data = data[:-10]
    elif damage == "bent":
        data = data[: len(data) // 2] + b"\0\0\0\0\0\0\0\0" + data[len(data) // 2 + 8 :]
    else:
        data = b"plain text"
    found = [
        one for item in items(io.BytesIO(data), name) for one in read_responses(item, "auto", name)
    ]
    assert "compressed file is" in found[-1].reason
    assert all(one.fact for one in found[:-1])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["GENERATION", "message", "chat.completion", "list", "2026-10-01", "{", "["]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A record with some of its fields, at any depth, replaced by anything; or bytes."""
    row = json.loads(json.dumps(draw(st.sampled_from([CHAT, MESSAGE, SPEND, OBSERVATION]))))
    if draw(st.booleans()):
        row = {"response": row, "started_at": AT, "customer": "x", "request": {"model": "m"}}
    for _ in range(draw(st.integers(0, 4))):
        at: Any = row
        while True:
            name = draw(st.sampled_from(sorted(at)))
            if not isinstance(at[name], dict) or not at[name] or draw(st.booleans()):
                at[name] = draw(JSON)
                break
            at = at[name]
    data = json.dumps(row).encode()
    cut = draw(st.none() | st.integers(0, len(data)))
    return data if cut is None else data[:cut] + draw(st.binary(max_size=6))


@settings(max_examples=100, deadline=None)
@given(st.lists(bent(), max_size=4))
def test_no_input_is_an_error_and_each_line_has_its_outcome(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    found = list(items(io.BytesIO(data), "x.jsonl"))
    whole = [line for line in data.split(b"\n") if line.strip()]
    if data.lstrip()[:1] != b"[" and len(found) > 1:
        assert [int(item.place.split()[1]) for item in found] == [
            at for at, line in enumerate(data.split(b"\n"), 1) if line.strip()
        ]
        assert len(found) == len(whole)
    for item in found:
        several = list(read_responses(item, "auto", "x"))
        assert several or b"data" in item.data
        for one in several:
            assert not (one.fact and one.reason)
            if one.fact:
                _check(one.fact)


def _check(one: Observed) -> None:
    known = [value for value in leaves(one) if value is not None]
    assert all(0 <= value <= 10**12 for value in known)
    assert (one.rank > 0) == (one.usage_source != "none") == bool(known)
    assert one.response_id or (one.trace_id and one.span_id)
    assert json.dumps(one.tags)


def _numbers() -> Iterator[int]:
    yield from (1, 1_000, 1_000_000, 1_000_000_000)


def test_the_unit_of_a_time_is_told_by_its_size() -> None:
    for scale in _numbers():
        one = fact({"response": CHAT, "started_at": AT // 10**9 * scale})
        assert one.started_ns == AT
