"""What types cannot say: names that must resolve, values that cannot work."""

import re
from collections.abc import Mapping

from fungible.config.keys import KeySettings, expiry_of
from fungible.config.limits import check_limits
from fungible.config.model import Config
from fungible.config.settings import (
    BackendSettings,
    ClickHouseSettings,
    GatewaySettings,
    IngestSettings,
    MigrationPolicy,
    RouteSettings,
)
from fungible.contract.accelerators import accelerator_named
from fungible.contract.target import parse_target
from fungible.errors import ConfigError, InputError

LEAST_SPOOL_BYTES = 1 << 20
ATTRIBUTED = ("customer", "feature", "owner", "key", "session")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_config(config: Config, where: str) -> None:
    """Raise `ConfigError` where names do not resolve or values cannot work."""
    for table in ("backend", "route", "key", "limit"):
        for name in getattr(config, table):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{where}: {table}.{name}: names are letters, digits and . _ -")
    for name, backend in config.backend.items():
        _check_backend(f"{where}: backend.{name}", backend)
    for model, route in config.route.items():
        _check_route(f"{where}: route.{model}", route, config)
    _check_gateway(f"{where}: gateway", config.gateway)
    if config.ledger.max_spool_bytes < LEAST_SPOOL_BYTES:
        raise ConfigError(f"{where}: ledger.max_spool_bytes must be at least {LEAST_SPOOL_BYTES}")
    _check_ingest(f"{where}: ingest", config.ingest)
    _check_migration(f"{where}: migration", config.migration)
    _check_keys(where, config.key)
    check_clickhouse(f"{where}: control.clickhouse", config.control.clickhouse)
    of_keys = {name: key.limits for name, key in config.key.items() if key.limits}
    check_limits(where, config.limits, config.limit, of_keys)


def _check_gateway(where: str, gateway: GatewaySettings) -> None:
    _check_timeouts(where, gateway)
    if gateway.max_shadows < 0:
        raise ConfigError(f"{where}.max_shadows must not be negative")
    if not 1 <= gateway.workers <= 64:
        raise ConfigError(f"{where}.workers must be between 1 and 64")
    metrics_port = gateway.metrics_port
    if metrics_port is not None and not 1 <= metrics_port <= 65535:
        raise ConfigError(f"{where}.metrics_port must be between 1 and 65535")
    if gateway.drain_timeout_s <= 0:
        raise ConfigError(f"{where}.drain_timeout_s must be above 0")


def _check_ingest(where: str, ingest: IngestSettings) -> None:
    for name in ingest.attributes:
        if name not in ATTRIBUTED:
            raise ConfigError(
                f"{where}.attributes.{name}: there is no such field",
                hint=f"it is one of {', '.join(ATTRIBUTED)}",
            )
    for server in ingest.gateways:
        if not server or "/" in server:
            raise ConfigError(
                f"{where}.gateways: {server!r} is no server", hint="give HOST or HOST:PORT"
            )
    if ingest.token_hash and not re.fullmatch(r"[0-9a-f]{64}", ingest.token_hash):
        raise ConfigError(
            f"{where}.token_hash is not the SHA-256 of a token", hint="`fungible key new` makes one"
        )


def _check_keys(where: str, keys: Mapping[str, KeySettings]) -> None:
    owners: dict[str, str] = {}
    for name, key in keys.items():
        if not re.fullmatch(r"[0-9a-f]{64}", key.hash):
            raise ConfigError(
                f"{where}: key.{name}.hash is not a SHA-256 in hexadecimal",
                hint="make one with `fungible key new`",
            )
        if key.hash in owners:
            raise ConfigError(f"{where}: key.{name}.hash is the one of key.{owners[key.hash]}")
        owners[key.hash] = name
        expiry_of(f"{where}: key.{name}", key)


def check_clickhouse(where: str, settings: ClickHouseSettings) -> None:
    """Raise `ConfigError` where the endpoint's settings cannot work."""
    if not 0 <= (settings.port or 0) <= 65535:
        raise ConfigError(f"{where}.port must be between 0 and 65535")
    if not 1 <= settings.max_queries <= 64:
        raise ConfigError(f"{where}.max_queries must be between 1 and 64")
    if settings.max_insert_bytes < 1:
        raise ConfigError(f"{where}.max_insert_bytes must be at least 1")
    for name, reader in settings.reader.items():
        if not _NAME.fullmatch(name) or name == "fungible":
            raise ConfigError(
                f"{where}.reader.{name}: names are letters, digits and . _ -",
                hint="the name `fungible` is the owner's",
            )
        if not re.fullmatch(r"[0-9a-f]{64}", reader.hash):
            raise ConfigError(
                f"{where}.reader.{name}.hash is not a SHA-256 in hexadecimal",
                hint="make one with `fungible warehouse reader`",
            )
        for field in ("max_execution_s", "max_memory_bytes", "max_result_rows"):
            if not getattr(reader, field) > 0:
                raise ConfigError(f"{where}.reader.{name}.{field} must be above 0")


def _check_backend(where: str, backend: BackendSettings) -> None:
    try:
        accelerator_named(backend.accelerator)
    except InputError as error:
        raise ConfigError(f"{where}.accelerator: {error.message}", hint=error.hint) from error
    if backend.engine is not None:
        try:
            parse_target(backend.engine.target)
        except InputError as error:
            raise ConfigError(f"{where}.engine: {error.message}", hint=error.hint) from error
    elif backend.kind == "openai_http" and not re.match(r"https?://", backend.url):
        raise ConfigError(f"{where}.url must be http:// or https://, or give it an engine")
    if not 0.0 < backend.reserved_share <= 1.0:
        raise ConfigError(f"{where}.reserved_share must be above 0 and at most 1")
    if not 0.0 <= backend.headroom < 1.0:
        raise ConfigError(f"{where}.headroom must be at least 0 and below 1")
    if backend.max_concurrency < 1:
        raise ConfigError(f"{where}.max_concurrency must be at least 1")
    if backend.max_queue < 0:
        raise ConfigError(f"{where}.max_queue must not be negative")
    if backend.queue_timeout_s <= 0:
        raise ConfigError(f"{where}.queue_timeout_s must be above 0")


def _check_timeouts(where: str, settings: GatewaySettings | RouteSettings) -> None:
    for name in ("first_token_timeout_s", "total_timeout_s", "idle_timeout_s"):
        seconds = getattr(settings, name)
        if seconds is not None and not seconds > 0:
            raise ConfigError(f"{where}.{name} must be above 0")


def _check_route(where: str, route: RouteSettings, config: Config) -> None:
    for name in {route.reference, *route.backends, *route.weights, *route.fallback}:
        if name not in config.backend:
            known = ", ".join(sorted(config.backend)) or "none"
            raise ConfigError(f"{where}: unknown backend {name!r}", hint=f"declared: {known}")
    _check_timeouts(where, route)
    if any(weight < 0 for weight in route.weights.values()):
        raise ConfigError(f"{where}.weights must not be negative")
    for name in ("retry_budget", "retry_min_per_s", "hedge_after_ms"):
        if (getattr(route, name) or 0.0) < 0:
            raise ConfigError(f"{where}.{name} must not be negative")
    if route.affinity_load < 1:
        raise ConfigError(f"{where}.affinity_load must be at least 1")
    if route.hedge_percentile is not None and not 50 <= route.hedge_percentile < 100:
        raise ConfigError(f"{where}.hedge_percentile must be at least 50 and below 100")
    if route.hedge_percentile is not None and route.hedge_after_ms is not None:
        raise ConfigError(f"{where}: give hedge_after_ms or hedge_percentile, not both")


def _check_migration(where: str, policy: MigrationPolicy) -> None:
    for name in ("shadow_margin", "canary_margin"):
        if not 0.0 < getattr(policy, name) < 1.0:
            raise ConfigError(f"{where}.{name} must be between 0 and 1")
    if not 0.0 < policy.shadow_share <= 1.0:
        raise ConfigError(f"{where}.shadow_share must be above 0 and at most 1")
    steps = policy.canary_steps
    if not steps or list(steps) != sorted(set(steps)) or not (steps[0] > 0 and steps[-1] < 1):
        raise ConfigError(
            f"{where}.canary_steps must grow and lie between 0 and 1",
            hint="for example [0.25, 0.5]; the last step is always 1",
        )
    for name in ("promote_at", "rollback_at"):
        if getattr(policy, name) <= 1.0:
            raise ConfigError(f"{where}.{name} must be above 1")
    for name in ("shadow_min_pairs", "canary_min_attempts", "trip_after", "max_pairs"):
        if getattr(policy, name) < 1:
            raise ConfigError(f"{where}.{name} must be at least 1")
    if policy.max_stage_s <= 0:
        raise ConfigError(f"{where}.max_stage_s must be above 0")
