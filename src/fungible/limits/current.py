"""The limiter in force. Another configuration's takes its place; requests end on theirs."""

import asyncio

from fungible.config import Config
from fungible.ledger.prices import PriceBook
from fungible.limits.limiter import Limiter


class CurrentLimiter:
    """Holds the limiter that admits now, and closes those before it once they have settled.

    Attributes:
        now: Admits requests.
    """

    def __init__(self, config: Config, book: PriceBook) -> None:
        self.now = Limiter(config, book)
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the store; a failure is left to the limits, see `Limiter.start`."""
        await self.now.start()

    async def successor(self, config: Config, book: PriceBook) -> Limiter:
        """A limiter for another configuration, its store open. `replace` puts it in force.

        Raises:
            LimitStoreError: It counts in another store, and that cannot be opened.
            MissingExtraError: The client library of that store is not installed.
        """
        fresh = Limiter(config, book, before=self.now)
        if not fresh.shares(self.now):
            try:
                await fresh.open()
            except BaseException:
                await fresh.close()
                raise
        return fresh

    def replace(self, fresh: Limiter) -> None:
        """Admit by `fresh` from now on."""
        task = asyncio.get_running_loop().create_task(self.now.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        self.now = fresh

    async def close(self) -> None:
        """Wait for settlements under way, then close every store. No request may be open."""
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=self.now.patience_s)
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self.now.close()
