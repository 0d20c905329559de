"""Spans of model calls become facts, by whatever names; JSON and protobuf say the same."""

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.contract.streams import SpanFact
from fungible.ingest.responses import Outcome
from fungible.ingest.source import Item, messages
from fungible.ingest.traces import read_traces
from support.otlp import AT, SPAN, TRACE, binary, request, span

USAGE: dict[str, object] = {
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 7,
    "gen_ai.usage.cache_read.input_tokens": 4,
    "gen_ai.usage.reasoning.output_tokens": 2,
}


def read(body: dict[str, Any], **attributed: list[str]) -> list[Outcome]:
    item = Item(place="line 1", data=json.dumps(body).encode())
    found = list(read_traces(item, attributed, "f"))
    packed = Item(place="line 1", data=binary(body))
    assert list(read_traces(packed, attributed, "f", binary=True)) == found
    return found


def fact(attributes: dict[str, object], **changes: Any) -> SpanFact:
    (one,) = read(request(span(attributes, **changes)))
    assert isinstance(one.fact, SpanFact), one.reason
    return one.fact


def leaves(one: SpanFact) -> tuple[int | None, ...]:
    fresh, read_, written = one.in_uncached, one.in_cache_read, one.in_cache_write
    return fresh, read_, written, one.out_visible, one.out_reasoning


NEW = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "azure.ai.openai",
    "gen_ai.request.model": "assistant",
    "gen_ai.response.model": "aster-mini-0101",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.conversation.id": "s-1",
    "gen_ai.request.stream": True,
    "openai.response.service_tier": "flex",
    "server.address": "API.example",
    "server.port": 8443,
    "fungible.customer": "acorn",
    **USAGE,
}


def test_the_conventions_of_today() -> None:
    one = fact(NEW)
    assert leaves(one) == (6, 4, 0, 5, 2)
    assert (one.trace_id, one.span_id, one.service) == (TRACE, SPAN, "web")
    assert (one.issuer, one.model, one.response_model) == (
        "azure.ai.openai",
        "assistant",
        "aster-mini-0101",
    )
    assert (one.response_id, one.finish_reason, one.session) == ("chatcmpl-1", "stop", "s-1")
    assert (one.streamed, one.tier, one.server) == (True, "flex", "api.example:8443")
    assert (one.customer, one.status, one.rank) == ("acorn", "ok", 3)
    assert (one.started_ns, one.ended_ns) == (AT, AT + 10**9)


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "anthropic",
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.cache_creation.input_tokens": 4,
        },
        {
            "openinference.span.kind": "LLM",
            "llm.provider": "anthropic",
            "llm.token_count.prompt": 10,
            "llm.token_count.completion": 5,
            "llm.token_count.total": 15,
            "llm.token_count.prompt_details.cache_write": 4,
        },
        {
            "llm.request.type": "chat",
            "gen_ai.system": "Anthropic",
            "gen_ai.usage.prompt_tokens": 10,
            "gen_ai.usage.completion_tokens": 5,
            "gen_ai.usage.cache_creation_input_tokens": 4,
        },
    ],
    ids=["genai-old", "openinference", "openllmetry"],
)
def test_older_and_other_names(attributes: dict[str, object]) -> None:
    one = fact(attributes)
    assert (one.issuer, leaves(one)) == ("anthropic", (6, 0, 4, 5, 0))


def test_embeddings_have_no_output() -> None:
    one = fact({"gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 9})
    assert (one.operation, leaves(one)) == ("embeddings", (9, 0, 0, 0, 0))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"http.request.method": "POST"},
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 5},
        {"gen_ai.operation.name": "execute_tool"},
        {"gen_ai.operation.name": "fetch_response", "gen_ai.response.id": "r"},
        {"openinference.span.kind": "CHAIN", "llm.token_count.prompt": 5},
    ],
)
def test_what_is_no_model_call_is_skipped(attributes: dict[str, object]) -> None:
    assert read(request(span(attributes))) == [Outcome(place="line 1, span 1")]


@pytest.mark.parametrize(
    ("attributes", "changes"),
    [
        ({"gen_ai.response.time_to_first_chunk": 0.25}, {}),
        ({"gen_ai.server.time_to_first_token": 0.25}, {}),
        ({"langfuse.observation.completion_start_time": '"2026-10-01T00:00:01.250Z"'}, {}),
        (
            {},
            {
                "events": [
                    {"name": "First Token Stream Event", "timeUnixNano": str(AT + 25 * 10**7)}
                ]
            },
        ),
    ],
)
def test_the_time_to_the_first_token(attributes: dict[str, object], changes: Any) -> None:
    one = fact({"gen_ai.operation.name": "chat"} | attributes, **changes)
    assert (one.first_token_ns, one.streamed) == (AT + 250_000_000, True)


def test_a_failed_call_and_one_that_broke_off() -> None:
    call: dict[str, object] = {"gen_ai.operation.name": "chat"}
    one = fact(call | {"error.type": "429", "gen_ai.usage.input_tokens": 0})
    assert (one.status, one.error_code, leaves(one)) == ("error", "429", (None,) * 5)
    cut = fact(call | USAGE | {"gen_ai.response.finish_reasons": ["error"]})
    assert (cut.status, cut.usage_source, cut.rank) == ("interrupted", "provider_partial", 2)
    by_status = fact(call, status={"code": 2, "message": "connection lost"})
    assert (by_status.status, by_status.error_code) == ("error", "connection lost")


def test_settings_say_which_attributes_name_a_customer() -> None:
    body = request(span(NEW | {"tenant": "birch"}), resource={"team": "forest"})
    (one,) = read(body, customer=["tenant"], owner=["team"])
    assert isinstance(one.fact, SpanFact)
    assert (one.fact.customer, one.fact.owner) == ("birch", "forest")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (span(NEW | {"gen_ai.usage.cache_read.input_tokens": 11}), "more than the 10 of input"),
        (span(NEW | {"gen_ai.usage.total_tokens": 99}), "do not add up"),
        (span(NEW | {"gen_ai.usage.input_tokens": -1}), "must be in"),
        (span(NEW, startTimeUnixNano="17"), "start is not between"),
        (span(NEW, endTimeUnixNano=str(AT - 1)), "before it began"),
    ],
)
def test_one_bad_span_costs_itself_alone(bad: dict[str, Any], why: str) -> None:
    first, second = read(request(bad, span(NEW)))
    assert why in first.reason
    assert second.fact is not None


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"spans": []}', b'{"resourceSpans": 3}', b"\xff\xff", b"\x0a\x7f"]
)
def test_what_is_no_request_says_so(data: bytes) -> None:
    for packed in (False, True):
        found = list(read_traces(Item(place="line 1", data=data), {}, "f", binary=packed))
        assert [one.fact for one in found] == [None] * len(found)
        assert packed or "no ExportTraceServiceRequest" in found[0].reason


def test_ids_in_base64_and_the_two_ways_to_pack_files() -> None:
    plain = span(NEW)
    other = plain | {
        "traceId": base64.b64encode(bytes.fromhex(TRACE)).decode(),
        "spanId": base64.b64encode(bytes.fromhex(SPAN)).decode(),
    }
    item = Item(place="line 1", data=json.dumps(request(other)).encode())
    assert [one.fact for one in read_traces(item, {}, "f")] == [
        one.fact for one in read(request(plain))
    ]
    data = binary(request(plain))
    assert [one.data for one in messages(io.BytesIO(data), "t.pb")] == [data]
    framed = (len(data).to_bytes(4, "big") + data) * 3
    assert [one.data for one in messages(io.BytesIO(framed), "t.pb")] == [data] * 3
    assert [one.fault for one in messages(io.BytesIO(framed[:-1]), "t.pb")] == [
        "",
        "",
        "the message is cut off",
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bytes_are_an_error(data: st.DataObject) -> None:
    body = request(span(NEW), span({"gen_ai.operation.name": "chat"}))
    packed = data.draw(st.booleans())
    raw = bytearray(binary(body) if packed else json.dumps(body).encode())
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    for one in read_traces(Item(place="m", data=bytes(raw)), {}, "f", binary=packed):
        assert not (one.fact and one.reason)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_shape_of_a_span_is_an_error(data: st.DataObject) -> None:
    bent = span(NEW)
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = bent
        while True:
            keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
            name = data.draw(st.sampled_from(keys))
            if not isinstance(at[name], dict | list) or not at[name] or data.draw(st.booleans()):
                at[name] = data.draw(JSON)
                break
            at = at[name]
    item = Item(place="line 1", data=json.dumps(request(bent, span(NEW))).encode())
    found = list(read_traces(item, {}, "f"))
    assert len(found) == 2
    assert found[1].fact is not None
    assert found[0].fact is None or not found[0].reason
