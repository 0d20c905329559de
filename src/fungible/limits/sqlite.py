"""Limits counted in a SQLite file: the embedded default, for many processes of one machine."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fungible.errors import LimitStoreError
from fungible.limits.buckets import (
    Bucket,
    Charge,
    Decision,
    Hold,
    Level,
    Settlement,
    correction,
    decide,
    drained,
)

_Result = TypeVar("_Result")
_SWEEP_US = 600_000_000
_TABLES = """
CREATE TABLE IF NOT EXISTS limit_bucket (
  name TEXT PRIMARY KEY, amount INTEGER NOT NULL, at_us INTEGER NOT NULL,
  keep_until_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limit_hold (
  bucket TEXT NOT NULL, id TEXT NOT NULL, amount INTEGER NOT NULL, expires_us INTEGER NOT NULL,
  PRIMARY KEY (bucket, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS limit_hold_expires ON limit_hold (bucket, expires_us);
"""
_PUT = """
INSERT INTO limit_bucket (name, amount, at_us, keep_until_us) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET amount = excluded.amount, at_us = excluded.at_us,
  keep_until_us = max(limit_bucket.keep_until_us, excluded.keep_until_us)
"""


class SqliteStore:
    """One connection on a thread of its own.

    Calls that arrive while a transaction runs share the next one: its cost is that of one
    write, whatever their number.
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="limits")
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._running = False
        self._swept_us = 0
        self._db: sqlite3.Connection

    async def open(self) -> None:
        """See `LimitStore`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    def _connect(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            # A crash of the process loses nothing; one of the machine may lose the last writes.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise LimitStoreError(f"limits: {self._path} cannot be opened: {error}") from error

    async def close(self) -> None:
        """See `LimitStore`."""
        if hasattr(self, "_db"):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._thread.shutdown(wait=False)

    async def reserve(self, hold: Hold, charges: Sequence[Charge]) -> Decision:
        """See `LimitStore`."""
        return await self._submit(lambda: self._reserve(hold, charges))

    async def settle(self, hold: Hold, settlements: Sequence[Settlement], now_us: int) -> None:
        """See `LimitStore`."""
        await self._submit(lambda: self._settle(hold, settlements, now_us))

    async def levels(self, buckets: Sequence[Bucket], now_us: int) -> tuple[int, ...]:
        """See `LimitStore`."""
        return await self._submit(lambda: self._levels(buckets, now_us))

    async def _submit(self, work: Callable[[], _Result]) -> _Result:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Result] = loop.create_future()
        self._waiting.append((work, future))
        if not self._running:
            self._running = True
            self._start(loop)
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting, []
        loop.run_in_executor(self._thread, self._drain, loop, batch)

    def _drain(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[Callable[[], Any], asyncio.Future[Any]]],
    ) -> None:
        """On the thread: everything that waited, in one transaction."""
        results: list[Any] = []
        failure: LimitStoreError | None = None
        try:
            self._db.execute("BEGIN IMMEDIATE")
            results = [work() for work, _ in batch]
            self._db.execute("COMMIT")
        except (sqlite3.Error, OverflowError) as error:
            failure = LimitStoreError(f"limits: {self._path}: {error}")
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        futures = [future for _, future in batch]
        loop.call_soon_threadsafe(self._done, loop, futures, results, failure)

    def _done(
        self,
        loop: asyncio.AbstractEventLoop,
        futures: list[asyncio.Future[Any]],
        results: list[Any],
        failure: LimitStoreError | None,
    ) -> None:
        for at, future in enumerate(futures):
            if future.done():
                continue
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(results[at])
        self._running = bool(self._waiting)
        if self._running:
            self._start(loop)

    def _reserve(self, hold: Hold, charges: Sequence[Charge]) -> Decision:
        self._forget(hold.made_us)
        levels = [self._level(charge.bucket, hold.made_us) for charge in charges]
        decision = decide(charges, levels)
        if decision.admitted:
            for charge, level, amount in zip(charges, levels, decision.levels, strict=True):
                self._put(charge.bucket, Level(amount, level.at_us))
                if not charge.bucket.drain:
                    self._db.execute(
                        "INSERT INTO limit_hold VALUES (?, ?, ?, ?)",
                        (charge.bucket.name, hold.id, charge.amount, hold.expires_us),
                    )
        return decision

    def _settle(self, hold: Hold, settlements: Sequence[Settlement], now_us: int) -> None:
        for settlement in settlements:
            bucket = settlement.charge.bucket
            level = self._level(bucket, now_us, sweep=False)
            if bucket.drain:
                change = correction(settlement, hold, now_us)
            else:
                held = self._db.execute(
                    "DELETE FROM limit_hold WHERE bucket = ? AND id = ? RETURNING amount",
                    (bucket.name, hold.id),
                ).fetchall()
                if not held and now_us < hold.expires_us:
                    continue
                change = settlement.used - (held[0][0] if held else 0)
            self._put(bucket, Level(max(0, level.amount + change), level.at_us))

    def _levels(self, buckets: Sequence[Bucket], now_us: int) -> tuple[int, ...]:
        return tuple(self._level(bucket, now_us).amount for bucket in buckets)

    def _level(self, bucket: Bucket, now_us: int, *, sweep: bool = True) -> Level:
        row = self._db.execute(
            "SELECT amount, at_us FROM limit_bucket WHERE name = ?", (bucket.name,)
        ).fetchone()
        if row is None:
            return drained(Level(), bucket, now_us)
        level = Level(*row)
        if sweep and not bucket.drain and (gone := self._let_go(bucket.name, now_us)):
            level = Level(max(0, level.amount - gone), level.at_us)
            self._put(bucket, level)
        return drained(level, bucket, now_us)

    def _let_go(self, name: str, now_us: int) -> int:
        rows = self._db.execute(
            "DELETE FROM limit_hold WHERE bucket = ? AND expires_us <= ? RETURNING amount",
            (name, now_us),
        ).fetchall()
        return sum(amount for (amount,) in rows)

    def _put(self, bucket: Bucket, level: Level) -> None:
        row = (bucket.name, level.amount, level.at_us, bucket.keep_until_us)
        self._db.execute(_PUT, row)

    def _forget(self, now_us: int) -> None:
        """Drop buckets of days and months long past, now and then."""
        if now_us - self._swept_us < _SWEEP_US:
            return
        self._swept_us = now_us
        old = "SELECT name FROM limit_bucket WHERE keep_until_us BETWEEN 1 AND ?"
        self._db.execute(f"DELETE FROM limit_hold WHERE bucket IN ({old})", (now_us,))  # noqa: S608
        self._db.execute("DELETE FROM limit_bucket WHERE keep_until_us BETWEEN 1 AND ?", (now_us,))
