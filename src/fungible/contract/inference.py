"""One request as it travels from the edge to a backend, and what comes back."""

from typing import Any, Literal

import msgspec

Endpoint = Literal[
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
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


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the client sent, plus what the gateway knows about it.

    Attributes:
        request_id: One per client request; shared by all of its attempts.
        model: The model the application asked for.
        body: The JSON body as decoded; unknown fields are kept and passed on.
        stream: Whether the client wants server-sent events.
        kind: Why the request is made; only `serve` answers a client.
        run_id: The eval, bench or migration run it belongs to, or empty.
        item_id: The suite item or trace row it belongs to, or empty.
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

    Prompt tokens read from a cache or written to one are part of `prompt_tokens`, reasoning
    tokens part of `completion_tokens` (OpenAI API reference, `CompletionUsage`).
    """
    prompt, completion = raw.get("prompt_tokens"), raw.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return Usage()
    if prompt < 0 or completion < 0:
        return Usage()
    details = raw.get("prompt_tokens_details")
    cached = min(_part(details, "cached_tokens"), prompt)
    written = min(_part(details, "cache_write_tokens"), prompt - cached)
    reasoning = min(_part(raw.get("completion_tokens_details"), "reasoning_tokens"), completion)
    return Usage(
        in_uncached=prompt - cached - written,
        in_cache_read=cached,
        in_cache_write=written,
        out_visible=completion - reasoning,
        out_reasoning=reasoning,
        source="provider_final" if final else "provider_partial",
    )


def _part(details: object, name: str) -> int:
    """One count of a details object; servers leave these out, or send null."""
    count = details.get(name) if isinstance(details, dict) else None
    return count if isinstance(count, int) and count > 0 else 0
