"""The route table: immutable, versioned, written by control and read by gateways."""

import msgspec

from fungible.config import Config
from fungible.errors import ConfigError


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Why a backend that is not the reference may serve: a passing verdict for its binding."""

    verdict_id: str
    binding: str
    expires_ns: int


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """A share of requests (0 to 1) that is copied to a backend and never answers a client.

    `tools` says whether copies keep the definitions of tools.
    """

    backend: str
    share: float
    migration_id: str = ""
    tools: bool = True


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """How one model is served: weights need not sum to 1, only to more than 0.

    `migration_id` names the migration that is moving the weights now: they hold exactly then.
    """

    model: str
    reference: str
    weights: dict[str, float]
    fallback: list[str] = []
    retries: int = 1
    shadow: Shadow | None = None
    admissions: dict[str, Admission] = {}
    migration_id: str = ""


class RouteTable(msgspec.Struct, frozen=True, kw_only=True):
    """All routes at one version. Rollback activates an earlier version's routes again."""

    version: int
    routes: dict[str, Route]
    reason: str = ""
    created_ns: int = 0


def initial_table(config: Config) -> RouteTable:
    """Version 0: what the configuration file says, before any migration.

    A route without weights sends everything to its reference.
    """
    routes = {
        model: Route(
            model=model,
            reference=settings.reference,
            weights=settings.weights or {settings.reference: 1.0},
            fallback=settings.fallback,
            retries=settings.retries,
        )
        for model, settings in config.route.items()
    }
    return RouteTable(version=0, routes=routes, reason="fungible.toml")


def decode_table(data: bytes, where: str) -> RouteTable:
    """A table from its JSON; `ConfigError` names `where` it came from."""
    try:
        return msgspec.json.decode(data, type=RouteTable)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not a route table: {error}") from error
