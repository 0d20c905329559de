"""LiteLLM's exports: rows of its spend log, and its standard logging payload."""

import msgspec

from fungible.errors import InputError
from fungible.ingest.bodies import SECOND_HAND, Fields, stated
from fungible.ingest.envelope import host_of
from fungible.ingest.usage import Leaves, partition
from fungible.ingest.values import amount, count, first_text, mapping, moment, ordered, text

_CALLS = {
    "completion": "chat",
    "text_completion": "text_completion",
    "embedding": "embeddings",
    "responses": "responses",
    "anthropic_messages": "messages",
    "generate_content": "generate_content",
}


def is_litellm(row: Fields) -> bool:
    """Whether a record is of either kind."""
    return "call_type" in row and ("startTime" in row or "spend" in row)


def read_litellm(row: Fields) -> Fields | None:
    """The fields of `Observed`; `None` when no model was called.

    LiteLLM's prompt tokens include what caches read and wrote, for every provider.

    Raises:
        InputError: Something in it cannot be used.
    """
    call = text(row.get("call_type"))
    operation = _CALLS.get(call.removeprefix("a").removesuffix("_stream")) or _CALLS.get(call)
    if operation is None and (row.get("prompt_tokens") or row.get("completion_tokens")):
        operation = call  # such as what it passes through: whoever used tokens pays for them
    if operation is None or str(row.get("cache_hit", "")).lower() == "true":
        return None  # files, batches, health; answers from its own cache cost nothing
    meta = _nested(row.get("metadata"))
    provider, _, name = text(row.get("model")).partition("/")
    issuer = text(row.get("custom_llm_provider")) or (provider if name else "")
    failed = "fail" in first_text(row.get("status"), meta.get("status")).lower()
    error = mapping(meta.get("error_information") or row.get("error_information"))
    began = moment(row.get("startTime"), "startTime")
    ended = moment(row.get("endTime"), "endTime")
    ordered(began, ended)
    first = moment(row.get("completionStartTime"), "completionStartTime")
    streamed = row.get("stream") is True
    found: Fields = {
        "operation": operation,
        "issuer": issuer,
        "response_id": first_text(row.get("request_id"), row.get("id")),
        "request_id": first_text(row.get("trace_id"), row.get("session_id")),
        "model": first_text(row.get("model_group"), row.get("model")),
        "response_model": name or provider,
        "server": host_of(text(row.get("api_base"))),
        "resource": text(row.get("model_id")),
        "key": first_text(meta.get("user_api_key_alias"), row.get("api_key")),
        "owner": first_text(
            meta.get("user_api_key_team_alias"),
            row.get("team_id"),
            meta.get("user_api_key_team_id"),
        ),
        "customer": first_text(row.get("end_user"), meta.get("user_api_key_end_user_id")),
        "session": text(row.get("session_id")),
        "tags": _tags(row.get("request_tags")),
        "started_ns": began,
        "first_token_ns": first if first and (streamed or first < ended) else None,
        "ended_ns": ended,
        "streamed": streamed,
        "status": "error" if failed else "ok",
        "error_code": first_text(error.get("error_code"), error.get("error_class")),
        "stated_cost": amount(_first(row.get("spend"), row.get("response_cost")), "spend"),
        "stated_currency": "USD",
    }
    spent = _nested(meta.get("spend_logs_metadata"))
    found["feature"] = first_text(spent.get("feature"), meta.get("feature"))
    return found | _usage(row, meta, failed)


def _usage(row: Fields, meta: Fields, failed: bool) -> Fields:
    prompt = count(row.get("prompt_tokens"), "prompt_tokens")
    completion = count(row.get("completion_tokens"), "completion_tokens")
    if failed and not prompt and not completion:
        return {}  # it writes 0 where it knows nothing
    usage = _nested(meta.get("usage_object"))
    details = _nested(meta.get("additional_usage_values")) | usage
    into = mapping(details.get("prompt_tokens_details"))
    out = mapping(details.get("completion_tokens_details"))
    leaves: Leaves = partition(
        prompt=prompt,
        completion=completion,
        read=_part(details.get("cache_read_input_tokens"), into.get("cached_tokens")),
        written=_part(
            details.get("cache_creation_input_tokens"), into.get("cache_creation_tokens")
        ),
        reasoning=_part(out.get("reasoning_tokens")),
        total=count(row.get("total_tokens"), "total_tokens"),
    )
    if not details and prompt:
        # Totals alone do not say what a cache read: whoever knows more outranks them.
        return stated(leaves, "estimated")
    return stated(leaves, "provider_final", SECOND_HAND)


def _part(*values: object) -> int | None:
    return next((found for one in values if (found := count(one, "usage_object"))), None)


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _tags(value: object) -> dict[str, str]:
    """`a:b` tags as pairs, the others as names; a list, or the text of one."""
    listed = _decoded(value)
    if not isinstance(listed, list):
        return {}
    pairs = (text(one).partition(":") for one in listed)
    return {name.strip(): value.strip() for name, _, value in pairs if name}


def _nested(value: object) -> Fields:
    """An object, or the text of one, as the database column holds it."""
    return mapping(_decoded(value))


def _decoded(value: object) -> object:
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputError(f"a column that should hold JSON does not: {error}") from error
