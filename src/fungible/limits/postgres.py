"""Limits counted in Postgres, for gateways on many machines: one transaction an operation.

Buckets are locked in the order of their names, so two operations never wait for each other.
"""

from collections.abc import Sequence
from typing import Any

from fungible.errors import LimitStoreError, MissingExtraError
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

try:
    from psycopg import AsyncConnection, Error
    from psycopg.conninfo import conninfo_to_dict
    from psycopg_pool import AsyncConnectionPool, PoolTimeout
except ImportError as _error:
    raise MissingExtraError(
        "limits in Postgres need psycopg", hint="pip install 'fungible[postgres]'"
    ) from _error

_SWEEP_US = 600_000_000
_CONNECTIONS = 4
# Two gateways that start at once would both make the tables: the lock lets one go first.
_TABLES = """
SELECT pg_advisory_xact_lock(7016964297);
CREATE TABLE IF NOT EXISTS fungible_limit_bucket (
  name text PRIMARY KEY, amount bigint NOT NULL, at_us bigint NOT NULL,
  keep_until_us bigint NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS fungible_limit_hold (
  bucket text NOT NULL, id text NOT NULL, amount bigint NOT NULL, expires_us bigint NOT NULL,
  PRIMARY KEY (bucket, id)
);
CREATE INDEX IF NOT EXISTS fungible_limit_hold_expires
  ON fungible_limit_hold (bucket, expires_us);
"""
_MAKE = """
INSERT INTO fungible_limit_bucket SELECT name, 0, %(now)s, 0
FROM unnest(%(names)s::text[]) AS name ORDER BY name ON CONFLICT DO NOTHING
"""
_LOCK = """
SELECT name, amount, at_us FROM fungible_limit_bucket WHERE name = ANY(%(names)s)
ORDER BY name FOR UPDATE
"""
_LET_GO = """
DELETE FROM fungible_limit_hold WHERE bucket = ANY(%(money)s) AND expires_us <= %(now)s
RETURNING bucket, amount
"""
_PUT = """
UPDATE fungible_limit_bucket AS b SET amount = n.amount, at_us = n.at_us,
  keep_until_us = greatest(b.keep_until_us, n.keep_until_us)
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
  AS n (name, amount, at_us, keep_until_us)
WHERE b.name = n.name
"""
_HOLD = """
INSERT INTO fungible_limit_hold
SELECT bucket, %s, amount, %s FROM unnest(%s::text[], %s::bigint[]) AS n (bucket, amount)
"""
_TAKE_HOLDS = """
DELETE FROM fungible_limit_hold WHERE bucket = ANY(%s) AND id = %s RETURNING bucket, amount
"""
_FORGET = """
WITH old AS (
  DELETE FROM fungible_limit_bucket WHERE keep_until_us BETWEEN 1 AND %s RETURNING name
)
DELETE FROM fungible_limit_hold WHERE bucket IN (SELECT name FROM old)
"""

_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresStore:
    """A few connections, opened when the first is needed."""

    def __init__(self, dsn: str, timeout_s: float) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._pool: AsyncConnectionPool[_Connection] | None = None
        self._swept_us = 0
        try:
            at = conninfo_to_dict(dsn)
        except Error as error:
            # The message would quote the DSN, and with it the password.
            raise LimitStoreError("limits.store is not a Postgres DSN") from error
        self._where = f"postgres at {at.get('host', 'localhost')}:{at.get('port', 5432)}"

    async def open(self) -> None:
        """See `LimitStore`."""
        pool: AsyncConnectionPool[_Connection] = AsyncConnectionPool(
            self._dsn,
            min_size=1,
            max_size=_CONNECTIONS,
            open=False,
            timeout=self._timeout_s,
            connection_class=AsyncConnection,
            kwargs={"application_name": "fungible-limits"},
        )
        try:
            await pool.open(wait=True, timeout=self._timeout_s)
            async with pool.connection() as db:
                await db.execute(_TABLES)
        except (Error, PoolTimeout, OSError) as error:
            await pool.close(timeout=0)
            raise self._failed(error) from error
        self._pool = pool

    async def close(self) -> None:
        """See `LimitStore`."""
        if self._pool is not None:
            await self._pool.close(timeout=self._timeout_s)
            self._pool = None

    async def reserve(self, hold: Hold, charges: Sequence[Charge]) -> Decision:
        """See `LimitStore`."""
        now, buckets = hold.made_us, [charge.bucket for charge in charges]
        try:
            async with self._opened().connection() as db:
                found = await self._locked(db, buckets, now)
                levels = [found[bucket.name] for bucket in buckets]
                decision = decide(charges, levels)
                if decision.admitted:
                    for bucket, amount in zip(buckets, decision.levels, strict=True):
                        found[bucket.name] = Level(amount, found[bucket.name].at_us)
                    money = [charge for charge in charges if not charge.bucket.drain]
                    await self._put(db, buckets, found)
                    if money:
                        names = [charge.bucket.name for charge in money]
                        amounts = [charge.amount for charge in money]
                        await db.execute(_HOLD, (hold.id, hold.expires_us, names, amounts))
                return decision
        except (Error, PoolTimeout, OSError) as error:
            raise self._failed(error) from error

    async def settle(self, hold: Hold, settlements: Sequence[Settlement], now_us: int) -> None:
        """See `LimitStore`."""
        buckets = [item.charge.bucket for item in settlements]
        money = [bucket.name for bucket in buckets if not bucket.drain]
        try:
            async with self._opened().connection() as db:
                found = await self._locked(db, buckets, now_us, sweep=False)
                rows = await (await db.execute(_TAKE_HOLDS, (money, hold.id))).fetchall()
                held: dict[str, int] = dict(rows)
                for item in settlements:
                    bucket = item.charge.bucket
                    if bucket.drain:
                        change = correction(item, hold, now_us)
                    elif bucket.name in held or now_us >= hold.expires_us:
                        change = item.used - held.get(bucket.name, 0)
                    else:
                        continue
                    level = found[bucket.name]
                    found[bucket.name] = Level(max(0, level.amount + change), level.at_us)
                await self._put(db, buckets, found)
        except (Error, PoolTimeout, OSError) as error:
            raise self._failed(error) from error

    async def levels(self, buckets: Sequence[Bucket], now_us: int) -> tuple[int, ...]:
        """See `LimitStore`."""
        try:
            async with self._opened().connection() as db:
                found = await self._locked(db, buckets, now_us)
                await self._put(db, buckets, found)
        except (Error, PoolTimeout, OSError) as error:
            raise self._failed(error) from error
        return tuple(found[bucket.name].amount for bucket in buckets)

    async def _locked(
        self, db: _Connection, buckets: Sequence[Bucket], now_us: int, *, sweep: bool = True
    ) -> dict[str, Level]:
        """Levels at `now_us` by name, locked to the end of the transaction."""
        by_name = {bucket.name: bucket for bucket in buckets}
        fields = {
            "now": now_us,
            "names": list(by_name),
            "money": [name for name, bucket in by_name.items() if not bucket.drain],
        }
        gone: list[tuple[Any, ...]] = []
        async with db.pipeline():
            if now_us - self._swept_us >= _SWEEP_US:
                self._swept_us = now_us
                await db.execute(_FORGET, (now_us,))
            await db.execute(_MAKE, fields)
            locked = await db.execute(_LOCK, fields)
            if sweep and fields["money"]:
                gone = await (await db.execute(_LET_GO, fields)).fetchall()
            rows = await locked.fetchall()
        found = {name: Level(amount, at_us) for name, amount, at_us in rows}
        for name, amount in gone:
            found[name] = Level(max(0, found[name].amount - amount), found[name].at_us)
        return {name: drained(level, by_name[name], now_us) for name, level in found.items()}

    @staticmethod
    async def _put(db: _Connection, buckets: Sequence[Bucket], found: dict[str, Level]) -> None:
        await db.execute(
            _PUT,
            (
                [bucket.name for bucket in buckets],
                [found[bucket.name].amount for bucket in buckets],
                [found[bucket.name].at_us for bucket in buckets],
                [bucket.keep_until_us for bucket in buckets],
            ),
        )

    def _opened(self) -> AsyncConnectionPool[_Connection]:
        if self._pool is None:
            raise LimitStoreError("limits: the store was not opened")
        return self._pool

    def _failed(self, error: Exception) -> LimitStoreError:
        return LimitStoreError(f"limits: {self._where}: {type(error).__name__}: {error}")
