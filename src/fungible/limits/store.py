"""What a store of limits must do, and which one a DSN names.

Every operation is atomic: it happens as a whole or not at all, however many gateways share
the store. All of them answer the same to the same calls (`tests/conformance`).
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from fungible.config import Config
from fungible.errors import ConfigError
from fungible.limits.buckets import Bucket, Charge, Decision, Hold, Settlement

_STORES = {
    "memory": ("fungible.limits.memory", "MemoryStore"),
    "sqlite": ("fungible.limits.sqlite", "SqliteStore"),
    "postgresql": ("fungible.limits.postgres", "PostgresStore"),
    "redis": ("fungible.limits.redis", "RedisStore"),
    "rediss": ("fungible.limits.redis", "RedisStore"),
}


class LimitStore(Protocol):
    """Counts. Built without I/O; `open` before use, `close` after.

    Every method raises `LimitStoreError` when the store cannot be reached or fails; nothing
    was changed then, or all of it was.
    """

    async def open(self) -> None:
        """Connect; make tables where there are none."""
        ...

    async def reserve(self, hold: Hold, charges: Sequence[Charge]) -> Decision:
        """Take all charges at `hold.made_us`, or none. Holds that have expired are let go."""
        ...

    async def settle(self, hold: Hold, settlements: Sequence[Settlement], now_us: int) -> None:
        """Replace what was reserved by what was used.

        Money that is settled twice before the hold expires counts once; after the hold
        expired, what was used is still added.
        """
        ...

    async def levels(self, buckets: Sequence[Bucket], now_us: int) -> tuple[int, ...]:
        """How full buckets are, in their order; one that was never used is empty."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


def build_store(config: Config) -> LimitStore:
    """The store that `limits.store` names; a SQLite file under the home when it is empty.

    Raises:
        ConfigError: There is no such kind of store.
        MissingExtraError: Its client library is not installed.
    """
    settings = config.limits
    dsn = settings.store or f"sqlite:///{(config.home_path() / 'limits.db').absolute()}"
    scheme, _, rest = dsn.partition("://")
    if scheme not in _STORES:
        raise ConfigError(f"limits.store: no store is called {scheme!r}")
    if scheme == "sqlite":
        dsn = str(Path("/" + rest.lstrip("/")))
    module, name = _STORES[scheme]
    store: LimitStore = getattr(import_module(module), name)(dsn, settings.store_timeout_s)
    return store
