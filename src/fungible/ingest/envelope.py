"""The envelope: a response body with what only the caller knows beside it."""

from typing import Any

from fungible.errors import InputError
from fungible.ingest.bodies import Fields, kind_of_body, read_body, read_stream, stated
from fungible.ingest.usage import anthropic_leaves, openai_leaves
from fungible.ingest.values import amount, first_text, labels, mapping, moment, ordered, text

_MARKS = ("response", "stream", "error", "usage")
_PATHS = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "responses",
    "messages": "messages",
}
_TEXTS = (
    "backend",
    "resource",
    "region",
    "request_id",
    "owner",
    "key",
    "customer",
    "feature",
    "session",
)


def is_envelope(row: Fields) -> bool:
    """Whether a record has a body inside, and is none itself."""
    inside = any(isinstance(row.get(name), dict | str) for name in _MARKS)
    return inside and not kind_of_body(row) and "object" not in row


def read_envelope(row: Fields) -> Fields:
    """The fields of `Observed` that an envelope states; its own words win over the body's.

    Raises:
        InputError: Something in it cannot be used.
    """
    found = _inside(row)
    request = mapping(row.get("request"))
    own: Fields = {name: text(row.get(name)) for name in _TEXTS}
    own |= {
        "issuer": first_text(row.get("issuer"), row.get("provider")),
        "response_id": found.get("response_id") or text(row.get("id")),
        "trace_id": text(row.get("trace_id")).lower(),
        "span_id": text(row.get("span_id")).lower(),
        "server": host_of(first_text(row.get("server"), row.get("url"))),
        "model": first_text(row.get("model"), request.get("model")),
        "operation": found.get("operation") or text(row.get("operation")),
        "tier": text(row.get("tier")) or found.get("tier", ""),
        "streamed": bool(row.get("streamed") or request.get("stream") or found.get("streamed")),
        "tags": labels(row.get("tags")),
        "started_ns": moment(row.get("started_at"), "started_at"),
        "first_token_ns": moment(row.get("first_token_at"), "first_token_at") or None,
        "ended_ns": moment(row.get("ended_at"), "ended_at"),
        "attempt_no": _small(row.get("attempt_no"), "attempt_no", 10_000),
        "http_status": _small(row.get("http_status"), "http_status", 999),
        "stated_cost": amount(row.get("cost"), "cost"),
        "stated_currency": text(row.get("currency")).upper(),
    }
    ordered(own["started_ns"], own["ended_ns"])
    found |= {name: value for name, value in own.items() if value or name not in found}
    return found | _outcome(row, found)


def host_of(url: str) -> str:
    """Host and port of a URL, lower case; what is none stays as it is."""
    rest = url.partition("://")[2] or url
    host = rest.partition("/")[0].rpartition("@")[2]
    return host.lower()


def _inside(row: Fields) -> Fields:
    body: Any = row.get("response")
    if isinstance(body, dict) and "body" in body and "object" not in body:
        body = body["body"]  # as OpenAI's batches and many HTTP logs nest it
    stream = row.get("stream") if isinstance(row.get("stream"), str) else None
    if isinstance(body, str):
        body, stream = None, body
    if isinstance(body, dict) and "error" not in body:
        return read_body(body)
    if stream:
        return read_stream(stream, _operation(row))
    usage = row.get("usage")
    if isinstance(usage, dict):
        beside = "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage
        leaves = anthropic_leaves(usage) if beside else openai_leaves(usage)
        return stated(leaves, "provider_final")
    if row.get("error") or isinstance(body, dict):
        return {"status": "error", "error_code": _error_code(row, body)}
    raise InputError("the envelope holds neither a response nor an error")


def _operation(row: Fields) -> str:
    said = first_text(row.get("operation"), row.get("endpoint"))
    path = said.partition("?")[0].rstrip("/").removeprefix("/v1/")
    return _PATHS.get(path, said if said in _PATHS.values() else "")


def _outcome(row: Fields, found: Fields) -> Fields:
    said = text(row.get("status"))
    if said in ("ok", "error", "cancelled", "interrupted"):
        return {"status": said}
    if found.get("http_status", 0) >= 400:
        return {"status": "error"}
    return {"status": found.get("status") or ("error" if row.get("error") else "ok")}


def _error_code(row: Fields, body: object) -> str:
    error = row.get("error") or mapping(body).get("error")
    if isinstance(error, dict):
        return first_text(error.get("code"), error.get("type"), error.get("message"))[:100]
    return text(error)[:100]


def _small(value: object, name: str, most: int) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"{name} is not a whole number in [0, {most}]")
    return value
