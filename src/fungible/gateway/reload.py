"""Follows the configuration file: a valid new one is taken over, an invalid one changes nothing."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from fungible.config import Config, load_config
from fungible.errors import ConfigError, FungibleError

log = logging.getLogger(__name__)

POLL_S = 0.5
SETTLED_NS = 2_000_000_000
# What is read only once, when the process starts: sockets and directories.
FIXED = ("home", "gateway", "control")

Stamp = tuple[int, int, int]
Apply = Callable[[Config], Awaitable[None]]


class ConfigWatcher:
    """Reads the file again when its time or size changes, and applies it when its content did.

    The same for the price sheet that it names.

    Args:
        path: The file that the process was started with.
        config: What it said then.
        apply: Takes over a new configuration, wholly or not at all.

    Attributes:
        config: What is in force.
        problem: Why the file as it is now is not in force; empty when it is.
        reloads: How often a new one was taken over.
    """

    def __init__(self, path: Path, config: Config, apply: Apply) -> None:
        self.config = config
        self.problem = ""
        self.reloads = 0
        self._one_at_a_time = asyncio.Lock()
        self._path = path
        self._apply = apply
        self._stamp = self._look()
        self._digest = self._read_digest()
        self._prices = _digest(self._sheet(config))

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Take over the file if it is another one than before."""
        async with self._one_at_a_time:
            await self._refresh()

    async def _refresh(self) -> None:
        stamp = self._look()
        # Two writes within one tick of the file system's clock have the same stamp.
        newest = max(one[0] for one in stamp if one) if any(stamp) else 0
        settled = time.time_ns() - newest > SETTLED_NS
        if stamp[0] is None or (stamp == self._stamp and settled):
            return
        self._stamp = stamp
        digest = self._read_digest()
        if digest == self._digest:
            return
        self._digest = digest
        try:
            await self._take(load_config(self._path))
        except FungibleError as error:
            self.problem = f"{error.message} hint: {error.hint}" if error.hint else error.message
            log.warning("the configuration in force was kept: %s", self.problem)

    async def _take(self, fresh: Config) -> None:
        before = self.config
        prices = _digest(self._sheet(fresh))
        if fresh == before and prices == self._prices:
            self.problem = ""
            return
        fixed = [name for name in FIXED if getattr(fresh, name) != getattr(before, name)]
        if before.key and not fresh.key:
            fixed.append("key (all keys are gone)")
        if fresh.ledger.dsn != before.ledger.dsn:
            fixed.append("ledger.dsn")
        if fixed:
            raise ConfigError(
                f"{self._path}: {', '.join(fixed)} changed, which only a restart can take over",
                hint="restart the gateway, or take that change back",
            )
        await self._apply(fresh)
        self.config, self._prices = fresh, prices
        self.problem = ""
        self.reloads += 1
        log.warning("configuration %s is in force", fresh.content_hash())

    def _sheet(self, config: Config) -> Path:
        return Path(config.ledger.prices or config.home_path() / "prices.csv")

    def _look(self) -> tuple[Stamp | None, Stamp | None]:
        return _stamp(self._path), _stamp(self._sheet(self.config))

    def _read_digest(self) -> bytes:
        return _digest(self._path) + _digest(self._sheet(self.config))


def _stamp(path: Path) -> Stamp | None:
    with contextlib.suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
    return None


def _digest(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).digest()
    return b""
