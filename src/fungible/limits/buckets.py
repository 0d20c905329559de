"""The arithmetic of limits, without a store: buckets that fill up and, for rates, drain.

A bucket holds whole numbers. One that limits a rate of `limit` per minute counts in
`SCALE` parts of a request or token and drains `limit` parts a microsecond, so it is empty
again after a minute: any stretch of `t` minutes admits at most `limit × (1 + t)`. One that
limits money counts in 10^-9 of the currency and never drains; each day, month or lifetime
has its own.

A request *reserves* an upper estimate in all of its buckets or in none. What it reserved of
money is a *hold*: it expires, so a gateway that crashed blocks nothing for ever. Afterwards
the request *settles* to what it used:

- of money, the hold gives way to the exact amount;
- of a rate, what was too much flows back, except what may have drained meanwhile: giving
  that back too would hand it out twice. What was too little is added.
"""

from collections.abc import Sequence

import msgspec

# Parts of one request or token: microseconds in a minute, so that a drain is whole.
SCALE = 60_000_000


class Bucket(msgspec.Struct, frozen=True):
    """Where something is counted.

    Attributes:
        name: Unique in the store, such as `limit.acme/customer=acme/tokens`.
        capacity: Most that it may hold when something is added.
        drain: How much flows out per microsecond; 0 for money.
        keep_until_us: When it may be forgotten, in µs since the epoch; 0 is never.
    """

    name: str
    capacity: int
    drain: int = 0
    keep_until_us: int = 0


class Charge(msgspec.Struct, frozen=True):
    """An amount reserved in a bucket."""

    bucket: Bucket
    amount: int


class Settlement(msgspec.Struct, frozen=True):
    """What became of a charge: `used` instead of `charge.amount`."""

    charge: Charge
    used: int


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """One reservation, made and ending at moments in µs since the epoch."""

    id: str
    made_us: int
    expires_us: int


class Level(msgspec.Struct, frozen=True):
    """How full a bucket was at a moment (µs since the epoch)."""

    amount: int = 0
    at_us: int = 0


class Decision(msgspec.Struct, frozen=True):
    """Whether all charges were taken, and how full each bucket is now, in their order."""

    admitted: bool
    levels: tuple[int, ...]


def drained(level: Level, bucket: Bucket, now_us: int) -> Level:
    """The level at `now_us`; a clock that ran backwards drains nothing."""
    if not bucket.drain:
        return level
    at = max(now_us, level.at_us)
    return Level(max(0, level.amount - bucket.drain * (at - level.at_us)), at)


def decide(charges: Sequence[Charge], levels: Sequence[Level]) -> Decision:
    """Take all charges on top of drained levels, or none."""
    now = tuple(level.amount for level in levels)
    if all(
        level + charge.amount <= charge.bucket.capacity
        for level, charge in zip(now, charges, strict=True)
    ):
        return Decision(
            True, tuple(level + charge.amount for level, charge in zip(now, charges, strict=True))
        )
    return Decision(False, now)


def correction(settlement: Settlement, hold: Hold, now_us: int) -> int:
    """What a rate's bucket changes by when a charge is settled; never more than is there."""
    charge = settlement.charge
    excess = charge.amount - settlement.used
    if excess <= 0:
        return -excess
    drained_at_most = charge.bucket.drain * max(0, now_us - hold.made_us)
    return -max(0, excess - drained_at_most)


def wait_us(charge: Charge, level: int) -> int | None:
    """Microseconds until a bucket at `level` has room for a charge; `None` is never."""
    bucket = charge.bucket
    missing = level + charge.amount - bucket.capacity
    if missing <= 0:
        return 0
    if not bucket.drain or charge.amount > bucket.capacity:
        return None
    return -(-missing // bucket.drain)
