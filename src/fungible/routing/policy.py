"""Which backend answers, which ones are tried after it, and what a shadow gets."""

import hashlib

import msgspec

from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    QueueFullError,
    QueueTimeoutError,
    UpstreamError,
    UpstreamSetupError,
)
from fungible.routing.budget import LONGEST_PAUSE_S, pause_s
from fungible.routing.table import Route, Shadow

_TOOL_FIELDS = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
)


def choose(route: Route, request: InferenceRequest) -> list[str]:
    """Backends to try, in order: the chosen one once per retry, then the fallbacks.

    The choice is a hash of the session (of the request, if it has none), so a conversation
    stays where its key/value cache is, and a growing weight moves as few as possible.
    """
    sticky = request.attribution.session or request.request_id
    point = unit_hash(f"{route.model}/{sticky}")
    chosen = _at(point, route.weights) or route.reference
    others = [name for name in route.fallback if name != chosen]
    return [chosen] * (1 + max(route.retries, 0)) + others


def pause_before_repeat(failure: UpstreamError, repeat: int) -> float | None:
    """Seconds to wait before the same backend is tried for the `repeat`-th time again.

    `None` if that would not help: our own settings are wrong there, its queue was full, or
    it asked for a longer rest than a client should wait.
    """
    if isinstance(failure, UpstreamSetupError | QueueFullError | QueueTimeoutError):
        return None
    if (failure.retry_after_s or 0.0) > LONGEST_PAUSE_S:
        return None
    return pause_s(repeat, failure.retry_after_s)


def in_shadow(route: Route, request: InferenceRequest) -> bool:
    """Whether this request is among the share that is copied to the shadow backend."""
    if route.shadow is None:
        return False
    return unit_hash(f"shadow/{request.request_id}") < route.shadow.share


def shadow_of(request: InferenceRequest, shadow: Shadow) -> InferenceRequest:
    """The copy that a shadow backend gets.

    Tools stay, since only the application ever runs a call, and it never sees this answer;
    `shadow.tools = false` takes their definitions out.
    """
    body = request.body
    if not shadow.tools:
        body = {key: value for key, value in body.items() if key not in _TOOL_FIELDS}
    return msgspec.structs.replace(
        request, kind="shadow", run_id=shadow.migration_id, body=body, witness=None
    )


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def _at(point: float, weights: dict[str, float]) -> str | None:
    total = sum(weights.values())
    if total <= 0:
        return None
    mark = point * total
    for name, weight in sorted(weights.items()):
        mark -= weight
        if mark < 0:
            return name
    return None
