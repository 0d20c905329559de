"""Requests of the OpenTelemetry protocol, in JSON and by its own schema in protobuf."""

import base64
import json
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

AT = 1_790_812_801_000_000_000  # 2026-10-01T00:00:01Z
TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"


def any_value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(one) for one in value]}}
    return {"stringValue": value}


def pairs(values: dict[str, object]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def span(attributes: dict[str, object], **changes: Any) -> dict[str, Any]:
    return {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "chat",
        "kind": 3,
        "startTimeUnixNano": str(AT),
        "endTimeUnixNano": str(AT + 10**9),
        "attributes": pairs(attributes),
    } | changes


def request(*spans: dict[str, Any], resource: dict[str, object] | None = None) -> dict[str, Any]:
    owned = {"attributes": pairs({"service.name": "web"} | (resource or {}))}
    scope = {"name": "test", "version": "1"}
    return {
        "resourceSpans": [{"resource": owned, "scopeSpans": [{"scope": scope, "spans": spans}]}]
    }


def binary(body: dict[str, Any]) -> bytes:
    """The same request in protobuf, by OpenTelemetry's own schema."""
    copy = json.loads(json.dumps(body))
    for group in copy["resourceSpans"]:
        for scope in group["scopeSpans"]:
            for one in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    if one.get(name):
                        one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
    return json_format.ParseDict(copy, ExportTraceServiceRequest()).SerializeToString()
