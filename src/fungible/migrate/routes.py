"""The route that each state of a migration activates."""

import msgspec

from fungible.config import Config
from fungible.migrate.states import Migration
from fungible.routing.admission import admissible
from fungible.routing.table import Admission, Route, Shadow


def route_for(migration: Migration, admission: Admission | None) -> Route | None:
    """The model's route in the migration's state; `None` where the state changes nothing.

    A canary takes its share from the incumbents in proportion. After a promotion the
    incumbents stay as fallbacks, the reference last.
    """
    before = migration.before
    if before is None or migration.state in ("requested", "gated", "refused"):
        return None
    if migration.state == "rolled_back":
        return before
    admissions = dict(before.admissions)
    if admission is not None:
        admissions[migration.candidate] = admission
    route = msgspec.structs.replace(before, admissions=admissions, shadow=None)
    if migration.state == "shadow":
        shadow = Shadow(
            backend=migration.candidate,
            share=migration.policy.shadow_share,
            migration_id=migration.migration_id,
            tools=migration.policy.shadow_tools,
        )
        return msgspec.structs.replace(route, shadow=shadow, migration_id=migration.migration_id)
    if migration.state == "canary":
        return msgspec.structs.replace(
            route, weights=_split(before, migration), migration_id=migration.migration_id
        )
    fallback = [name for name in before.fallback if name != migration.candidate]
    if before.reference not in (migration.candidate, *fallback):
        fallback.append(before.reference)
    return msgspec.structs.replace(route, weights={migration.candidate: 1.0}, fallback=fallback)


def _split(before: Route, migration: Migration) -> dict[str, float]:
    shares = {name: before.weights[name] for name in migration.incumbents}
    rest = (1.0 - migration.weight) / sum(shares.values())
    weights = {name: round(share * rest, 12) for name, share in shares.items()}
    return weights | {migration.candidate: migration.weight}


def admitted_route(route: Route, config: Config, now_ns: int) -> Route:
    """The route without the weights of backends that are gone or no longer admitted.

    When nobody is left, the reference answers everything.
    """
    weights = {
        name: weight
        for name, weight in route.weights.items()
        if name == route.reference or why_not(name, route, config, now_ns) is None
    }
    if not any(weight > 0 for weight in weights.values()):
        weights = {route.reference: 1.0}
    return route if weights == route.weights else msgspec.structs.replace(route, weights=weights)


def why_not(name: str, route: Route, config: Config, now_ns: int) -> str | None:
    """Why a backend may not serve on this route now, or `None`; the reference always may."""
    if name not in config.backend:
        return f"no backend {name!r} is configured"
    if name == route.reference:
        return None
    return admissible(name, config.backend[name], route.admissions.get(name), now_ns)
