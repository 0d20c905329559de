"""Which backend answers, which ones are tried after it, and what a shadow gets."""

import random
from collections.abc import Callable, Mapping

import msgspec

from fungible.config import RouteSettings
from fungible.contract.inference import InferenceRequest
from fungible.errors import (
    QueueFullError,
    QueueTimeoutError,
    UpstreamError,
    UpstreamSetupError,
)
from fungible.routing.affinity import affinity_key, fits, rendezvous, unit_hash
from fungible.routing.budget import LONGEST_PAUSE_S, pause_s
from fungible.routing.place import Place
from fungible.routing.spend import Spend
from fungible.routing.table import Route, Shadow

_TOOL_FIELDS = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
)
_DEFAULT = RouteSettings(reference="")
_UNKNOWN_S = 1.0

Rank = Callable[[Place], tuple[float, ...]]


def choose(
    route: Route,
    request: InferenceRequest,
    settings: RouteSettings = _DEFAULT,
    places: Mapping[str, Place] | None = None,
    spend: Spend | None = None,
) -> list[str]:
    """Backends to try, in order: the chosen one once per retry, then the others, then fallbacks.

    Only backends with weight are chosen. While a migration moves the route (`migration_id`)
    the choice is by weight alone, so that a candidate gets exactly the share it was given.

    Args:
        route: The active one, with nobody in it who is not admitted.
        request: What was asked.
        settings: The route's policy.
        places: How the backends do; without it the choice is by weight alone.
        spend: What requests cost where, for the policy `cost`.
    """
    weights = {
        name: weight
        for name, weight in route.weights.items()
        if weight > 0 and (places is None or name in places)
    }
    if not weights:
        weights = {route.reference: 1.0}
    if len(weights) == 1:
        ranked = list(weights)
    else:
        key = affinity_key(request, settings.affinity)
        prefers = rendezvous(f"{route.model}/{key or request.request_id}", weights)
        if route.migration_id or places is None:
            ranked = prefers[:1]
        elif settings.policy == "weighted":
            ranked = _at_home(prefers, weights, places, settings) if key else prefers
        else:
            ranked = _by_state(request, settings, weights, places, spend)
            if key and settings.policy != "cost":
                ready = [name for name in prefers if places[name].breaker.ready()]
                home = _at_home(ready, weights, places, settings)[:1]
                ranked = home + [name for name in ranked if name not in home]
    order = [ranked[0]] * (1 + max(route.retries, 0))
    for name in (*ranked[1:], *route.fallback):
        if name not in order:
            order.append(name)
    return order


def _at_home(
    prefers: list[str],
    weights: dict[str, float],
    places: Mapping[str, Place],
    settings: RouteSettings,
) -> list[str]:
    """First who is preferred and within its bound on load; then the others as preferred."""
    outstanding = {name: places[name].outstanding for name in weights}
    for name in prefers:
        if fits(name, weights, outstanding, settings.affinity_load):
            return [name, *(other for other in prefers if other != name)]
    return prefers


def _by_state(
    request: InferenceRequest,
    settings: RouteSettings,
    weights: dict[str, float],
    places: Mapping[str, Place],
    spend: Spend | None,
) -> list[str]:
    """Everybody with weight, best first; who is at rest comes last."""
    able = [places[name] for name in weights]
    rank: Rank
    if settings.policy == "cost" and spend is not None:
        rank = _cost_rank(request, spend)
    elif settings.policy == "latency":
        rank = _latency_rank(request, able)
    else:
        rank = _outstanding_rank(weights)
    able.sort(key=lambda place: (not place.breaker.ready(), *rank(place)))
    return [place.name for place in able]


def _outstanding_rank(weights: Mapping[str, float]) -> Rank:
    def rank(place: Place) -> tuple[float, ...]:
        return (place.outstanding + 1) / weights[place.name], random.random()  # noqa: S311

    return rank


def _latency_rank(request: InferenceRequest, places: list[Place]) -> Rank:
    """Latest time to first token × what is under way; who is unknown is tried with one call."""
    seen = {
        place.name: (place.latency if request.stream else place.whole_latency).value()
        for place in places
    }
    worst = max(seen.values(), default=0.0) or _UNKNOWN_S

    def rank(place: Place) -> tuple[float, ...]:
        latency = seen[place.name] or (worst if place.outstanding else 0.0)
        return latency * (place.outstanding + 1), place.outstanding + random.random()  # noqa: S311

    return rank


def _cost_rank(request: InferenceRequest, spend: Spend) -> Rank:
    """The cheapest with a free slot; those without come after all that have one."""

    def rank(place: Place) -> tuple[float, ...]:
        return place.slots.locked(), spend.of(place, request), place.outstanding

    return rank


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
