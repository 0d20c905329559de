"""One request as it travels from the edge to a backend, and what comes back."""

from typing import Any, Literal, Protocol, TypeGuard

import msgspec

Endpoint = Literal[
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
    "tokenize",  # vLLM's, and our engine's; asked of backends only
]
Kind = Literal["serve", "shadow", "eval", "bench", "judge"]


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request is for. Taken from the authenticated key first, then from the request."""

    key: str = ""
    owner: str = ""
    customer: str = ""
    feature: str = ""
    session: str = ""
    tags: dict[str, str] = {}


class Witness(Protocol):
    """Sees a request's attempts come and go; it must not block or raise."""

    def began(self) -> None:
        """An attempt is about to be sent."""
        ...

    def ended(self, row: Any) -> None:  # noqa: ANN401  # an AttemptEvent; it is defined above us
        """It is over, with this `AttemptEvent`."""
        ...


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the client sent, plus what the gateway knows about it.

    Attributes:
        request_id: One per client request; shared by all of its attempts.
        attempt_id: The attempt's own, once there is one: what the upstream logs it under.
        model: The model the application asked for.
        body: The JSON body as decoded; unknown fields are kept and passed on.
        stream: Whether the client wants server-sent events.
        kind: Why the request is made; only `serve` answers a client.
        run_id: The eval, bench or migration run it belongs to, or empty.
        item_id: The suite item or trace row it belongs to, or empty.
        witness: Who is told of every attempt, such as the request's grant.
        trace_id, span_id: Of the client's span (W3C Trace Context), or empty.
    """

    request_id: str
    model: str
    body: dict[str, Any]
    endpoint: Endpoint = "chat/completions"
    stream: bool = False
    attribution: Attribution = Attribution()
    kind: Kind = "serve"
    run_id: str = ""
    item_id: str = ""
    attempt_id: str = ""
    witness: Witness | None = None
    trace_id: str = ""
    span_id: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts in mutually exclusive leaves; `None` is unknown, never zero.

    `source` says where the numbers come from: `provider_final` (the backend's own closing
    usage), `provider_partial` (its usage on a cut stream), `counted` (we counted tokens),
    `estimated`, or `none`.
    """

    in_uncached: int | None = None
    in_cache_read: int | None = None
    in_cache_write: int | None = None
    out_visible: int | None = None
    out_reasoning: int | None = None
    source: Literal["provider_final", "provider_partial", "counted", "estimated", "none"] = "none"


def usage_from_openai(raw: dict[str, Any], *, final: bool = True) -> Usage:
    """Leaves from an OpenAI `usage` object; the leaves sum to its totals.

    Prompt tokens read from a cache or written to it are part of `prompt_tokens`, reasoning
    tokens part of `completion_tokens` (OpenAI API reference, `CompletionUsage`).
    """
    return _inclusive(
        raw.get("prompt_tokens"),
        raw.get("completion_tokens"),
        raw.get("prompt_tokens_details"),
        raw.get("completion_tokens_details"),
        final,
    )


def usage_from_responses(raw: object) -> Usage:
    """Leaves from the `usage` of a response: as above, under other names (`ResponseUsage`)."""
    if not isinstance(raw, dict):
        return Usage()
    return _inclusive(
        raw.get("input_tokens"),
        raw.get("output_tokens"),
        raw.get("input_tokens_details"),
        raw.get("output_tokens_details"),
        True,
    )


def usage_from_anthropic(raw: dict[str, Any], *, final: bool) -> Usage:
    """Leaves from an Anthropic `usage` object.

    There `input_tokens` are those that no cache knew, beside what was read from the cache or
    written to it; thinking tokens are part of `output_tokens` (Anthropic API reference, `Usage`).
    """
    fresh, out = raw.get("input_tokens"), raw.get("output_tokens")
    if not _is_count(fresh) or not _is_count(out):
        return Usage()
    thought = min(_part(raw.get("output_tokens_details"), "thinking_tokens"), out)
    return Usage(
        in_uncached=fresh,
        in_cache_read=_part(raw, "cache_read_input_tokens"),
        in_cache_write=_part(raw, "cache_creation_input_tokens"),
        out_visible=out - thought,
        out_reasoning=thought,
        source="provider_final" if final else "provider_partial",
    )


def _inclusive(
    prompt: object, completion: object, read: object, written: object, final: bool
) -> Usage:
    """Leaves from totals that include their details."""
    if not _is_count(prompt) or not _is_count(completion):
        return Usage()
    cached = min(_part(read, "cached_tokens"), prompt)
    stored = min(_part(read, "cache_write_tokens"), prompt - cached)
    reasoning = min(_part(written, "reasoning_tokens"), completion)
    return Usage(
        in_uncached=prompt - cached - stored,
        in_cache_read=cached,
        in_cache_write=stored,
        out_visible=completion - reasoning,
        out_reasoning=reasoning,
        source="provider_final" if final else "provider_partial",
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and value >= 0


def _part(details: object, name: str) -> int:
    """One count of a details object; servers leave these out, or send null."""
    count = details.get(name) if isinstance(details, dict) else None
    return count if isinstance(count, int) and count > 0 else 0
