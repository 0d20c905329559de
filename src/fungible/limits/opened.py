"""A store in use: opened once, shared by limiters of one configuration after another."""

import asyncio

from fungible.config import Config
from fungible.limits.store import LimitStore


class OpenedStore:
    """Opened when it is first needed, closed by the last limiter that counts in it.

    Attributes:
        store: The store itself.
        rest_until: Until when it is left alone after a failure (monotonic seconds).
    """

    def __init__(self, store: LimitStore, config: Config) -> None:
        self.store = store
        self.rest_until = 0.0
        self._named = _named(config)
        self._users = 1
        self._opened = False
        self._opening = asyncio.Lock()

    def fits(self, config: Config) -> bool:
        """Whether another configuration counts in the same."""
        return self._named == _named(config)

    def shared(self) -> "OpenedStore":
        """The same, for one user more."""
        self._users += 1
        return self

    async def open(self) -> None:
        """Open it, if it is not open yet; `LimitStoreError` when that fails."""
        if self._opened:
            return
        async with self._opening:
            if not self._opened:
                await self.store.open()
                self._opened = True

    async def close(self) -> None:
        """One user less; the last one closes it."""
        self._users -= 1
        if not self._users:
            await self.store.close()


def _named(config: Config) -> tuple[str, str, float]:
    settings = config.limits
    # What is counted in memory must not be lost with the store that has it.
    timeout_s = 0.0 if settings.store.startswith("memory:") else settings.store_timeout_s
    return config.home, settings.store, timeout_s
