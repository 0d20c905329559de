"""Spans of model calls as `SpanFact`; every other span is skipped."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fungible.contract.issuers import issuer_named
from fungible.contract.streams import SpanFact
from fungible.errors import InputError
from fungible.ingest import names
from fungible.ingest.bodies import SECOND_HAND, Fields, stated
from fungible.ingest.envelope import host_of
from fungible.ingest.otlp import Attributes, Broken, Span, spans_of_json, spans_of_protobuf
from fungible.ingest.responses import Outcome, fact_digest
from fungible.ingest.source import Item
from fungible.ingest.usage import partition
from fungible.ingest.values import amount, count, moment, ordered, text

_EARLIEST_NS, _LATEST_NS = 946_684_800 * 10**9, 4_102_444_800 * 10**9
_LONGEST_NS = 7 * 86_400 * 10**9

Attributed = Mapping[str, Sequence[str]]


def read_traces(
    item: Item, attributed: Attributed, source: str, *, binary: bool = False
) -> Iterator[Outcome]:
    """Every span of one item, a request in JSON or in protobuf; never raises.

    Args:
        item: Bytes of the request, or what is wrong with them.
        attributed: Attributes that say for whom a call was, before those of `names.ATTRIBUTED`.
        source: Name of the file or the receiver.
        binary: Whether it is protobuf.
    """
    if item.fault:
        yield Outcome(place=item.place, reason=item.fault, sample=item.data)
        return
    spans = spans_of_protobuf(item.data) if binary else spans_of_json(item.data)
    number = 0
    try:
        for number, span in enumerate(spans, 1):
            yield _outcome(span, f"{item.place}, span {number}", attributed, source)
    except InputError as error:
        place = f"{item.place}, after span {number}" if number else item.place
        yield Outcome(place=place, reason=error.message, sample=item.data)


def _outcome(span: Span | Broken, place: str, attributed: Attributed, source: str) -> Outcome:
    if isinstance(span, Broken):
        return Outcome(place=place, reason=span.reason, sample=span.data)
    operation = operation_of(span)
    if not operation:
        return Outcome(place=place)
    try:
        found = _fields(span, operation, attributed)
        found["issuer"] = issuer_named(found["issuer"])
        fact = SpanFact(digest=fact_digest(found), source=f"{source}:{place}", **found)
    except InputError as error:
        sample = msgspec.json.encode(span.attributes, enc_hook=str)
        return Outcome(place=place, reason=error.message, sample=sample)
    return Outcome(place=place, fact=fact)


def operation_of(span: Span) -> str:
    """What kind of model call a span is; empty when it is none."""
    for name in names.OPERATION:
        if said := text(span.attributes.get(name)):
            return names.CALLS.get(said.lower(), "")
    if any(name in span.attributes for name in names.MODEL_CALL):
        return "chat"
    return ""


def _fields(span: Span, operation: str, attributed: Attributed) -> Fields:
    said = span.attributes
    found: Fields = {name: text(_first(said, keys)) for name, keys in names.TEXTS.items()}
    everywhere = span.resource | said
    for name in ("backend", "resource", "region"):
        found[name] = found[name] or text(_first(span.resource, names.TEXTS[name]))
    for name, keys in names.ATTRIBUTED.items():
        found[name] = text(_first(everywhere, [*attributed.get(name, ()), *keys]))
    _times(span)
    reason = _first(said, names.FINISH_REASONS)
    finish = text(reason[0] if isinstance(reason, list) and reason else reason)
    failed = span.failed or bool(found["error_code"]) or finish == "error"
    first = _first_token(span)
    status = _status(failed, finish, first)
    if failed and not found["error_code"]:
        found["error_code"] = span.message[:100]
    return (
        found
        | {
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "parent_span_id": "" if span.parent_span_id == "0" * 16 else span.parent_span_id,
            "service": text(span.resource.get("service.name")),
            "operation": operation,
            "server": _server(said),
            "streamed": _first(said, names.STREAMED) in (True, "true") or first is not None,
            "started_ns": span.started_ns,
            "first_token_ns": first,
            "ended_ns": span.ended_ns,
            "status": status,
            "http_status": _http_status(_first(said, names.HTTP_STATUS)),
            "finish_reason": finish,
            "stated_cost": amount(_first(said, names.COST), "the cost"),
            "stated_currency": text(_first(said, names.CURRENCY)).upper(),
        }
        | _usage(said, status, operation)
    )


def _usage(said: Attributes, status: str, operation: str) -> Fields:
    def of(keys: names.Names) -> int | None:
        return count(_first(said, keys), next((key for key in keys if key in said), keys[0]))

    prompt, completion = of(names.INPUT), of(names.OUTPUT)
    if operation == "embeddings" and prompt is not None:
        completion = completion or 0  # vectors are no tokens
    leaves = partition(
        prompt=prompt,
        completion=completion,
        read=of(names.CACHE_READ),
        written=of(names.CACHE_WRITE),
        reasoning=of(names.REASONING),
        total=of(names.TOTAL),
    )
    if status != "ok":
        if not any(leaves.values()):
            return {}  # zeros that a tracer wrote before it knew
        return stated(leaves, "provider_partial")
    return stated(leaves, "provider_final", SECOND_HAND)


def _status(failed: bool, finish: str, first: int | None) -> str:
    if not failed:
        return "ok"
    return "interrupted" if first is not None or finish == "error" else "error"


def _times(span: Span) -> None:
    for name, at in (("start", span.started_ns), ("end", span.ended_ns)):
        if not _EARLIEST_NS <= at < _LATEST_NS:
            raise InputError(f"the span's {name} is not between the years 2000 and 2100")
    ordered(span.started_ns, span.ended_ns)


def _first_token(span: Span) -> int | None:
    """When the first token came, by an attribute or an event; `None` when nothing tells."""
    seconds = _first(span.attributes, names.FIRST_TOKEN_S)
    if isinstance(seconds, int | float) and 0 < seconds * 1e9 < _LONGEST_NS:
        return span.started_ns + round(seconds * 1e9)
    if (at := text(_first(span.attributes, names.FIRST_TOKEN_AT)).strip('"')) != "":
        return moment(at, names.FIRST_TOKEN_AT[0]) or None
    moments = [event.at_ns for event in span.events if event.name in names.FIRST_TOKEN_EVENTS]
    inside = [at for at in moments if span.started_ns <= at <= span.ended_ns]
    return min(inside, default=None)


def _server(said: Attributes) -> str:
    host = text(_first(said, names.ADDRESS)).lower()
    if not host:
        return host_of(text(_first(said, names.URL)))
    port = text(_first(said, names.PORT))
    return f"{host}:{port}" if port and ":" not in host else host


def _http_status(value: object) -> int:
    said = text(value)
    return int(said) if said.isascii() and said.isdecimal() and len(said) == 3 else 0


def _first(said: Attributes, keys: Iterable[str]) -> Any:  # noqa: ANN401
    """The value of the first attribute that is there and says something."""
    return next((value for key in keys if (value := said.get(key)) not in (None, "")), None)
