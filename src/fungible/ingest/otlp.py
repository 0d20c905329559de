"""Spans of the OpenTelemetry protocol, from JSON and from protobuf, one by one.

`ExportTraceServiceRequest` of opentelemetry-proto 1.x: the JSON form with ids in hexadecimal,
as the collector's file exporter and OTLP/HTTP write it; the binary form by field number.
"""

import base64
import binascii
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from fungible.errors import InputError
from fungible.ingest.values import mapping, text

Attributes = dict[str, Any]
_DEEPEST = 32


class Event(msgspec.Struct, frozen=True):
    """Something that happened at one moment of a span."""

    name: str
    at_ns: int


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span with the attributes of its resource. Ids are hexadecimal, lower case.

    Attributes:
        failed: The status says error.
    """

    trace_id: str
    span_id: str
    parent_span_id: str = ""
    name: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    attributes: Attributes = {}
    resource: Attributes = {}
    events: list[Event] = []
    failed: bool = False
    message: str = ""


class Broken(msgspec.Struct, frozen=True):
    """A span that cannot be read, and why."""

    reason: str
    data: bytes


class _Json(msgspec.Struct, rename="camel"):
    resource_spans: list[msgspec.Raw] | None = None


class _JsonResource(msgspec.Struct, rename="camel"):
    resource: dict[str, Any] = {}
    scope_spans: list[dict[str, msgspec.Raw]] = []


def spans_of_json(data: bytes) -> Iterator[Span | Broken]:
    """Every span of one request.

    Raises:
        InputError: It is no such request.
    """
    try:
        request = msgspec.json.decode(data, type=_Json)
        if request.resource_spans is None:
            raise InputError("this is no ExportTraceServiceRequest: it has no resourceSpans")
        for raw in request.resource_spans:
            part = msgspec.json.decode(raw, type=_JsonResource)
            resource = _attributes(part.resource.get("attributes"))
            for scope in part.scope_spans:
                yield from _json_spans(scope.get("spans"), resource)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"this is no ExportTraceServiceRequest: {error}") from error


def _json_spans(raw: msgspec.Raw | None, resource: Attributes) -> Iterator[Span | Broken]:
    for one in msgspec.json.decode(raw, type=list[msgspec.Raw]) if raw else []:
        try:
            yield _json_span(msgspec.json.decode(one), resource)
        except (InputError, ValueError, TypeError, RecursionError) as error:
            yield Broken(f"the span cannot be read: {error}", bytes(one))


def _json_span(row: Any, resource: Attributes) -> Span:  # noqa: ANN401
    if not isinstance(row, dict):
        raise InputError("it is no object")
    status = mapping(row.get("status"))
    events = row.get("events")
    return Span(
        trace_id=_id(row.get("traceId"), 16),
        span_id=_id(row.get("spanId"), 8),
        parent_span_id=_id(row.get("parentSpanId"), 8) if row.get("parentSpanId") else "",
        name=text(row.get("name")),
        started_ns=_whole(row.get("startTimeUnixNano")),
        ended_ns=_whole(row.get("endTimeUnixNano")),
        attributes=_attributes(row.get("attributes")),
        resource=resource,
        events=[
            Event(text(event.get("name")), _whole(event.get("timeUnixNano")))
            for event in (events if isinstance(events, list) else [])
            if isinstance(event, dict)
        ],
        failed=status.get("code") in (2, "STATUS_CODE_ERROR"),
        message=text(status.get("message")),
    )


def _id(value: object, size: int) -> str:
    """Hexadecimal; some write base64, as protobuf's own JSON would."""
    if isinstance(value, str) and len(value) == 2 * size:
        try:
            return bytes.fromhex(value).hex()
        except ValueError:
            pass
    elif isinstance(value, str) and len(value) == len(base64.b64encode(bytes(size))):
        try:
            return base64.b64decode(value, validate=True).hex()
        except binascii.Error:
            pass
    raise InputError(f"an id is not {size} bytes in hexadecimal")


def _whole(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        return int(value)
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise InputError("a time is no number of nanoseconds")


def _attributes(raw: object) -> Attributes:
    if not isinstance(raw, list):
        return {}
    return {
        text(one.get("key")): _any_value(one.get("value"), 0)
        for one in raw
        if isinstance(one, dict)
    }


def _any_value(value: object, depth: int) -> Any:  # noqa: ANN401
    """The plain value inside an `AnyValue`; `None` for kinds that nobody reads."""
    if not isinstance(value, dict) or depth > _DEEPEST:
        return None
    if "intValue" in value:
        number = value["intValue"]
        if isinstance(number, str):
            digits = number.removeprefix("-")
            sane = digits.isascii() and digits.isdecimal() and len(digits) <= 20
            return int(number) if sane else number
        return number
    if "arrayValue" in value:
        inner = value["arrayValue"]
        values = inner.get("values") if isinstance(inner, dict) else None
        return [_any_value(one, depth + 1) for one in values] if isinstance(values, list) else []
    return next(
        (value[name] for name in ("stringValue", "doubleValue", "boolValue") if name in value),
        None,
    )


# Protobuf: field numbers of opentelemetry/proto/{trace,common,resource}/v1.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Field = tuple[int, Any]


def spans_of_protobuf(data: bytes) -> Iterator[Span | Broken]:
    """Every span of one request.

    Raises:
        InputError: It is no such request.
    """
    try:
        for resource_spans in _each(_fields(data), 1):
            fields = list(_fields(resource_spans))
            resource: Attributes = {}
            for one in _each(fields, 1):
                resource |= _pairs(_each(_fields(one), 1))
            for scope_spans in _each(fields, 2):
                for span in _each(_fields(scope_spans), 2):
                    yield _binary_or_broken(span, resource)
    except (ValueError, struct.error, IndexError) as error:
        raise InputError(f"this is no ExportTraceServiceRequest: {error}") from error


def _binary_or_broken(data: bytes, resource: Attributes) -> Span | Broken:
    try:
        return _binary_span(data, resource)
    except (InputError, ValueError, TypeError, AttributeError, struct.error, IndexError) as error:
        return Broken(f"the span cannot be read: {error}", data)


_IDS = {1: ("trace_id", 16), 2: ("span_id", 8), 4: ("parent_span_id", 8)}
_TIMES = {7: "started_ns", 8: "ended_ns"}


def _binary_span(data: bytes, resource: Attributes) -> Span:
    found: dict[str, Any] = {"resource": resource}
    attributes: list[bytes] = []
    events: list[Event] = []
    for number, value in _fields(data):
        if number in _IDS:
            name, size = _IDS[number]
            if len(value) != size and (value or number != 4):
                raise InputError(f"an id is not {size} bytes")
            found[name] = value.hex()
        elif number in _TIMES:
            found[_TIMES[number]] = value
        elif number == 5:
            found["name"] = _text(value)
        elif number == 9:
            attributes.append(value)
        elif number == 11:
            event = dict(_fields(value))
            events.append(Event(_text(event.get(2, b"")), _time(event.get(1, 0))))
        elif number == 15:
            status = dict(_fields(value))
            found |= {"failed": status.get(3, 0) == 2, "message": _text(status.get(2, b""))}
    return Span(attributes=_pairs(attributes), events=events, **_checked(found))


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    if not found.get("trace_id") or not found.get("span_id"):
        raise InputError("an id is missing")
    for name in _TIMES.values():
        _time(found.get(name, 0))
    return found


def _time(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError("a time has the wrong type")
    return value


def _pairs(raw: "Iterator[bytes] | list[bytes]") -> Attributes:
    found: Attributes = {}
    for one in raw:
        inner = dict(_fields(one))
        found[_text(inner.get(1, b""))] = _binary_value(inner.get(2, b""), 0)
    return found


def _binary_value(data: bytes, depth: int) -> Any:  # noqa: ANN401
    """The plain value inside an `AnyValue`."""
    if depth > _DEEPEST:
        return None
    for number, value in _fields(data):
        if number == 1:
            return _text(value)
        if number == 2:
            return bool(value)
        if number == 3:
            return value - (1 << 64) if value >= 1 << 63 else value
        if number == 4:
            return struct.unpack("<d", struct.pack("<Q", value))[0]
        if number == 5:
            return [_binary_value(one, depth + 1) for one in _each(_fields(value), 1)]
    return None


def _each(fields: "Iterator[Field] | list[Field]", number: int) -> Iterator[bytes]:
    for found, value in fields:
        if found == number:
            if not isinstance(value, bytes):
                raise ValueError(f"field {number} has the wrong type")
            yield value


def _fields(data: bytes) -> Iterator[Field]:
    """Numbers and values of one message: integers, or bytes."""
    if not isinstance(data, bytes):
        raise ValueError("a message has the wrong type")
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif kind == _BYTES:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("it is cut off")
            yield number, data[at : at + size]
            at += size
        elif kind == _FIXED64:
            yield number, struct.unpack_from("<Q", data, at)[0]
            at += 8
        elif kind == _FIXED32:
            yield number, struct.unpack_from("<I", data, at)[0]
            at += 4
        else:
            raise ValueError(f"wire type {kind} is unknown")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value, shift = value & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + 1
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _text(value: object) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a text has the wrong type")
    return value.decode("utf-8", "replace")
