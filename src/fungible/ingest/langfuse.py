"""Langfuse's exports of observations: leaves or totals, whichever their sum proves."""

from fungible.errors import InputError
from fungible.ingest.bodies import SECOND_HAND, Fields, stated
from fungible.ingest.usage import Leaves, partition
from fungible.ingest.values import amount, count, first_text, labels, mapping, moment, ordered, text

_CALLS = {"GENERATION": "chat", "EMBEDDING": "embeddings"}
_READ = ("input_cached_tokens", "cache_read_input_tokens", "input_cache_read", "cached_tokens")
_WRITTEN = ("cache_creation_input_tokens", "input_cache_creation", "input_cache_write")
_THOUGHT = ("output_reasoning_tokens", "output_reasoning", "reasoning_tokens")


def is_langfuse(row: Fields) -> bool:
    """Whether a record is an observation."""
    trace = "traceId" in row or "trace_id" in row
    return trace and "type" in row and ("startTime" in row or "start_time" in row)


def read_langfuse(row: Fields) -> Fields | None:
    """The fields of `Observed`; `None` for observations that are no model calls.

    Raises:
        InputError: Something in it cannot be used, or its counts don't add up.
    """
    operation = _CALLS.get(text(row.get("type")).upper())
    if operation is None:
        return None

    def of(camel: str, snake: str) -> object:
        return row.get(camel) if row.get(camel) is not None else row.get(snake)

    meta = mapping(row.get("metadata"))
    began = moment(of("startTime", "start_time"), "startTime")
    ended = moment(of("endTime", "end_time"), "endTime")
    ordered(began, ended)
    first = moment(of("completionStartTime", "completion_start_time"), "completionStartTime")
    costs = mapping(of("costDetails", "cost_details"))
    cost = next(
        (
            value
            for value in (of("totalCost", "total_cost"), row.get("calculatedTotalCost"))
            if value is not None
        ),
        costs.get("total"),
    )
    failed = text(row.get("level")).upper() == "ERROR"
    return {
        "operation": operation,
        "issuer": first_text(meta.get("ls_provider"), meta.get("provider")),
        "trace_id": first_text(of("traceId", "trace_id")).lower(),
        "span_id": text(row.get("id")).lower(),
        "model": first_text(row.get("model"), of("providedModelName", "provided_model_name")),
        "response_model": text(of("internalModel", "internal_model")),
        "customer": first_text(of("userId", "user_id"), meta.get("user_id")),
        "session": first_text(of("sessionId", "session_id"), meta.get("session_id")),
        "feature": first_text(meta.get("feature"), of("traceName", "trace_name")),
        "owner": text(meta.get("owner")),
        "tags": labels({"environment": row.get("environment")}),
        "started_ns": began,
        "first_token_ns": first or None,
        "ended_ns": ended,
        "streamed": bool(first),
        "status": "error" if failed else "ok",
        "error_code": first_text(of("statusMessage", "status_message"))[:100] if failed else "",
        "stated_cost": amount(cost, "totalCost"),
        "stated_currency": "USD" if cost is not None else "",
    } | _usage(row, of("usageDetails", "usage_details"), failed)


def _usage(row: Fields, said: object, failed: bool) -> Fields:
    details = said if isinstance(said, dict) else None
    if details is None and isinstance(row.get("usage"), dict):
        details = mapping(row["usage"])
        if text(details.get("unit")) not in ("", "TOKENS"):
            return {}
    if not details:
        return {}
    counts = {
        name: value
        for name, one in details.items()
        if name != "unit" and (value := count(one, f"usageDetails.{name}")) is not None
    }
    if failed and not any(counts.values()):
        return {}
    leaves = leaves_of(counts)
    provided = row.get("providedUsageDetails", row.get("provided_usage_details"))
    if isinstance(provided, dict) and not provided:
        return stated(leaves, "estimated")  # counted by Langfuse itself
    return stated(leaves, "provider_final", SECOND_HAND)


def leaves_of(counts: dict[str, int]) -> Leaves:
    """Leaves of one `usageDetails`, whose types are exclusive or inclusive.

    Types beside `input`, `output` and `total` are leaves when everything adds up to the total,
    and parts when `input` and `output` alone do. Without a total they are leaves, as Langfuse
    defines them.

    Raises:
        InputError: Neither holds, or a type is neither input nor output.
    """
    total = counts.get("total")
    read = _sum(counts, _READ)
    written = _sum(counts, _WRITTEN)
    thought = _sum(counts, _THOUGHT)
    known = {"input", "output", "total", *_READ, *_WRITTEN, *_THOUGHT}
    other_in = _others(counts, known, "input")
    other_out = _others(counts, known, "output")
    strange = [name for name in counts if name not in known and counts[name]]
    strange = [name for name in strange if "input" not in name and "output" not in name]
    if strange:
        raise InputError(f"usageDetails.{strange[0]} is neither input nor output")
    fresh, visible = counts.get("input"), counts.get("output")
    if fresh is None and visible is None and not other_in and not other_out:
        return {}
    exclusive = sum(value for name, value in counts.items() if name != "total")
    if total in (None, exclusive):
        has_in = total is not None or fresh is not None or other_in + read + written > 0
        has_out = total is not None or visible is not None or other_out + thought > 0
        return {
            "in_uncached": (fresh or 0) + other_in if has_in else None,
            "in_cache_read": read if has_in else None,
            "in_cache_write": written if has_in else None,
            "out_visible": (visible or 0) + other_out if has_out else None,
            "out_reasoning": thought if has_out else None,
        }
    return partition(
        prompt=fresh,
        completion=visible,
        read=read,
        written=written,
        reasoning=thought,
        total=total,
    )


def _sum(counts: dict[str, int], names: tuple[str, ...]) -> int:
    return sum(counts.get(name, 0) for name in names)


def _others(counts: dict[str, int], known: set[str], word: str) -> int:
    """Other kinds of input or output, such as audio: priced as text until a price says more."""
    return sum(value for name, value in counts.items() if name not in known and word in name)
