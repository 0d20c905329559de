"""What the month's callers recorded: a log of response bodies, and spans of a tracer."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fungible.world.calls import BY_NAME, SECOND_NS, Call, Leaves


def logged(call: Call) -> list[dict[str, Any]]:
    """The log's lines about a call: none, one, or the same one twice."""
    if {"aborted-stream", "unlogged"} & set(call.faults) or call.service == "fleet":
        return []
    line = {
        "issuer": BY_NAME[call.service].issuer,
        "backend": call.service,
        "started_at": _iso(call.started_ns + call.skew_ns),
        "ended_at": _iso(call.ended_ns + call.skew_ns),
        "response": _body(call),
    }
    return [line, line] if "duplicate-response" in call.faults else [line]


def spans(call: Call) -> list[dict[str, Any]]:
    """The tracer's spans of a call, as OTLP JSON: none, one, or the same one twice."""
    if "untraced" in call.faults:
        return []
    span = {
        "traceId": call.trace_id,
        "spanId": call.span_id,
        "name": f"chat {BY_NAME[call.service].model}",
        "kind": 3,
        "startTimeUnixNano": str(call.started_ns),
        "endTimeUnixNano": str(call.ended_ns),
        "attributes": [_attribute(name, value) for name, value in _facts(call)],
        "status": {"code": 2 if "aborted-stream" in call.faults else 1},
    }
    return [span, span] if "duplicate-span" in call.faults else [span]


def envelope(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Spans in one `ExportTraceServiceRequest` (OpenTelemetry protocol, JSON form)."""
    resource = {"attributes": [_attribute("service.name", "world")]}
    scope = {"name": "world", "version": "1"}
    return {
        "resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": found}]}]
    }


def _facts(call: Call) -> Iterator[tuple[str, object]]:
    service = BY_NAME[call.service]
    yield "gen_ai.operation.name", "chat"
    yield "gen_ai.provider.name", service.issuer
    yield "gen_ai.request.model", service.model
    yield "gen_ai.request.stream", call.streamed
    yield "server.address", service.server.partition(":")[0]
    if port := service.server.partition(":")[2]:
        yield "server.port", int(port)
    for name in ("customer", "feature", "owner"):
        if value := getattr(call, name):
            yield f"fungible.{name}", value
    if "aborted-stream" in call.faults:
        yield "error.type", "client_disconnected"
        yield "gen_ai.response.finish_reasons", ["error"]
        return
    yield "gen_ai.response.id", call.response_id
    yield "gen_ai.response.model", service.model
    yield "gen_ai.response.finish_reasons", ["stop"]
    if call.tier:
        yield "openai.response.service_tier", call.tier
    if call.known_usage:
        yield from _usage(call.leaves)


def _usage(leaves: Leaves) -> Iterator[tuple[str, object]]:
    """Totals include their parts in the GenAI conventions."""
    inputs = leaves.in_uncached + leaves.in_cache_read + leaves.in_cache_write
    yield "gen_ai.usage.input_tokens", inputs
    yield "gen_ai.usage.cache_read.input_tokens", leaves.in_cache_read
    yield "gen_ai.usage.cache_creation.input_tokens", leaves.in_cache_write
    yield "gen_ai.usage.output_tokens", leaves.out_visible + leaves.out_reasoning
    yield "gen_ai.usage.reasoning.output_tokens", leaves.out_reasoning


def _body(call: Call) -> dict[str, Any]:
    service = BY_NAME[call.service]
    if service.issuer == "anthropic":
        return {
            "id": call.response_id,
            "type": "message",
            "role": "assistant",
            "model": service.model,
            "content": [{"type": "text", "text": ""}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": _anthropic_usage(call.leaves) if call.known_usage else None,
        }
    body: dict[str, Any] = {
        "id": call.response_id,
        "object": "chat.completion",
        "created": (call.started_ns + call.skew_ns) // SECOND_NS,
        "model": service.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ""},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "service_tier": call.tier or "default",
    }
    if call.known_usage:
        body["usage"] = _openai_usage(call.leaves)
    return body


def _openai_usage(leaves: Leaves) -> dict[str, Any]:
    inputs = leaves.in_uncached + leaves.in_cache_read
    outputs = leaves.out_visible + leaves.out_reasoning
    return {
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "total_tokens": inputs + outputs,
        "prompt_tokens_details": {"cached_tokens": leaves.in_cache_read},
        "completion_tokens_details": {"reasoning_tokens": leaves.out_reasoning},
    }


def _anthropic_usage(leaves: Leaves) -> dict[str, Any]:
    return {
        "input_tokens": leaves.in_uncached,
        "cache_read_input_tokens": leaves.in_cache_read,
        "cache_creation_input_tokens": leaves.in_cache_write,
        "output_tokens": leaves.out_visible + leaves.out_reasoning,
    }


def _attribute(name: str, value: object) -> dict[str, Any]:
    return {"key": name, "value": _any_value(value)}


def _any_value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_any_value(each) for each in value]}}
    return {"stringValue": str(value)}


def _iso(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
