"""Limits counted in this process alone: for one gateway, and as the plainest of the stores."""

from collections import defaultdict
from collections.abc import Sequence

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

_SWEEP_US = 60_000_000


class MemoryStore:
    """Forgets everything when the process ends; each process counts for itself."""

    def __init__(self, dsn: str = "memory://", timeout_s: float = 1.0) -> None:
        del dsn, timeout_s
        self._levels: dict[str, Level] = {}
        self._keep_until: dict[str, int] = {}
        self._holds: defaultdict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        self._swept_us = 0

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def reserve(self, hold: Hold, charges: Sequence[Charge]) -> Decision:
        """See `LimitStore`."""
        self._forget(hold.made_us)
        for charge in charges:
            if not charge.bucket.drain:
                self._let_go(charge.bucket.name, hold.made_us)
        levels = [self._level(charge.bucket, hold.made_us) for charge in charges]
        decision = decide(charges, levels)
        if decision.admitted:
            for charge, level, amount in zip(charges, levels, decision.levels, strict=True):
                self._put(charge.bucket, Level(amount, level.at_us))
                if not charge.bucket.drain:
                    self._holds[charge.bucket.name][hold.id] = (charge.amount, hold.expires_us)
        return decision

    async def settle(self, hold: Hold, settlements: Sequence[Settlement], now_us: int) -> None:
        """See `LimitStore`."""
        for settlement in settlements:
            bucket = settlement.charge.bucket
            level = self._level(bucket, now_us)
            if bucket.drain:
                change = correction(settlement, hold, now_us)
            else:
                held = self._holds[bucket.name].pop(hold.id, None)
                if held is None and now_us < hold.expires_us:
                    continue
                change = settlement.used - (held[0] if held else 0)
            self._put(bucket, Level(max(0, level.amount + change), level.at_us))

    async def levels(self, buckets: Sequence[Bucket], now_us: int) -> tuple[int, ...]:
        """See `LimitStore`."""
        for bucket in buckets:
            self._let_go(bucket.name, now_us)
        return tuple(self._level(bucket, now_us).amount for bucket in buckets)

    def _level(self, bucket: Bucket, now_us: int) -> Level:
        return drained(self._levels.get(bucket.name, Level()), bucket, now_us)

    def _put(self, bucket: Bucket, level: Level) -> None:
        self._levels[bucket.name] = level
        known = self._keep_until.get(bucket.name, 0)
        self._keep_until[bucket.name] = max(known, bucket.keep_until_us)

    def _let_go(self, name: str, now_us: int) -> None:
        holds = self._holds.get(name, {})
        for hold in [hold for hold, (_, expires) in holds.items() if expires <= now_us]:
            amount, _ = holds.pop(hold)
            level = self._levels[name]
            self._levels[name] = Level(max(0, level.amount - amount), level.at_us)

    def _forget(self, now_us: int) -> None:
        if now_us - self._swept_us < _SWEEP_US:
            return
        self._swept_us = now_us
        for name in [name for name, end in self._keep_until.items() if 0 < end <= now_us]:
            del self._levels[name], self._keep_until[name]
            self._holds.pop(name, None)
