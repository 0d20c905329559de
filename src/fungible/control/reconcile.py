"""Brings the active routes in line with the configuration file and with what is admitted now."""

from collections.abc import Mapping

import msgspec

from fungible.config import Config
from fungible.migrate.routes import admitted_route
from fungible.routing.table import Route, initial_table

Routes = Mapping[str, Route]


def reconcile(
    config: Config, active: Routes, file_before: Routes, now_ns: int
) -> tuple[dict[str, Route], list[str]]:
    """The routes to serve by, and what changed about them, one sentence each.

    What migrations moved stays; what somebody edited in the file wins.

    Args:
        config: The file as it is now.
        active: The routes served by until now; empty at the very first start.
        file_before: What the file said when `active` was last reconciled.
        now_ns: Unix time in nanoseconds, for verdicts that expired meanwhile.
    """
    routes: dict[str, Route] = {}
    changes = [f"{model}: no longer in the file" for model in active if model not in config.route]
    for model, wanted in initial_table(config).routes.items():
        route, change = _one(active.get(model), file_before.get(model), wanted)
        checked = _known_only(admitted_route(route, config, now_ns), config)
        if checked != route:
            dropped = sorted(route.weights.keys() - checked.weights.keys())
            change = f"{change}; not admitted: {', '.join(dropped) or 'its shadow'}".lstrip("; ")
        if change:
            changes.append(f"{model}: {change}")
        routes[model] = checked
    return routes, changes


def _one(active: Route | None, before: Route | None, wanted: Route) -> tuple[Route, str]:
    if active is None:
        return wanted, "as the file says"
    if before == wanted:
        return active, ""
    if before is None or (before.reference, before.weights) != (wanted.reference, wanted.weights):
        kept = msgspec.structs.replace(wanted, admissions=active.admissions)
        return kept, "reference or weights were changed in the file"
    kept = msgspec.structs.replace(active, fallback=wanted.fallback, retries=wanted.retries)
    return kept, "fallback or retries were changed in the file"


def _known_only(route: Route, config: Config) -> Route:
    fallback = [name for name in route.fallback if name in config.backend]
    shadow = route.shadow if route.shadow and route.shadow.backend in config.backend else None
    if (fallback, shadow) == (route.fallback, route.shadow):
        return route
    return msgspec.structs.replace(route, fallback=fallback, shadow=shadow)
