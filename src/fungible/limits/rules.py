"""Which limits a request falls under, and the buckets that each of them is counted in.

Budgets count in 10^-9 of the price sheet's currency (`NANOS` to one). What is added is
rounded up, so a budget never admits more than it says; the ledger keeps the exact amounts.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Literal

import msgspec

from fungible.config import Config, LimitSettings
from fungible.contract.inference import Attribution
from fungible.ledger.costing import UNITS
from fungible.limits.buckets import SCALE, Bucket, Charge

NANOS = 1_000_000_000
_EXACT = Context(prec=40)
_DAY_US = 86_400_000_000
# Old periods are kept for a while, to be looked at.
_KEEP = timedelta(days=40)
_SELECTORS: tuple[Literal["key", "owner", "customer"], ...] = ("key", "owner", "customer")

Meter = Literal["requests", "tokens", "day", "month", "total"]


def nanos_of(amount: str) -> int:
    """A configured amount such as `12.50` in 10^-9 of the currency."""
    return int(_EXACT.scaleb(Decimal(amount), 9))


def nanos_up(units: int) -> int:
    """The ledger's units (10^-18) in 10^-9, rounded up."""
    step: int = UNITS // NANOS
    return -(-units // step)


def amount_text(nanos: int) -> str:
    """As a plain decimal, without trailing zeros."""
    text = f"{nanos // NANOS}.{nanos % NANOS:09d}".rstrip("0")
    return text.rstrip(".")


class Need(msgspec.Struct, frozen=True):
    """What a request takes: an upper estimate before it, what it used after it.

    Attributes:
        tokens: Prompt and answer together.
        nanos: Money in 10^-9 of the currency; `None` where nothing gives a price.
        requests: 1, or 0 when it never left.
    """

    tokens: int = 0
    nanos: int | None = 0
    requests: int = 1


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One limit of one subject.

    Attributes:
        where: The table it comes from, such as `limit.acme`.
        subject: Whom it counts, such as `customer=acme`.
        settings: Its numbers.
    """

    where: str
    subject: str
    settings: LimitSettings

    @property
    def name(self) -> str:
        """Unique among the limits of a configuration; what buckets are named after."""
        return f"{self.where}/{self.subject}"


class Counted(msgspec.Struct, frozen=True):
    """One bucket of a limit, and what it counts. `resets_us` is 0 for what drains or stays."""

    limit: Limit
    meter: Meter
    bucket: Bucket
    resets_us: int = 0

    def charge(self, need: Need) -> Charge:
        """What a request adds to the bucket."""
        return Charge(self.bucket, self.amount(need))

    def amount(self, need: Need) -> int:
        """In the bucket's own parts."""
        if self.meter == "requests":
            return need.requests * SCALE
        if self.meter == "tokens":
            return need.tokens * SCALE
        return need.nanos or 0

    @property
    def money(self) -> bool:
        """Whether it counts money."""
        return not self.bucket.drain


class Rules:
    """The limits of a configuration, looked up by who asks."""

    def __init__(self, config: Config) -> None:
        self._all = [
            *((f"key.{name}.limits", "key", name, key.limits) for name, key in config.key.items()),
            *(
                (f"limit.{name}", selector, getattr(limit, selector), limit)
                for name, limit in config.limit.items()
                for selector in _SELECTORS
                if getattr(limit, selector)
            ),
        ]
        self._all = [row for row in self._all if row[3] is not None]
        self._found: dict[tuple[str, str, str], tuple[Limit, ...]] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing is limited at all."""
        return not self._all

    def of(self, who: Attribution) -> tuple[Limit, ...]:
        """The limits that a request of `who` falls under."""
        if not self._all:
            return ()
        asks = (who.key, who.owner, who.customer)
        found = self._found.get(asks)
        if found is None:
            if len(self._found) >= 10_000:  # customers may be named by clients
                self._found.clear()
            found = self._found[asks] = tuple(self._match(who))
        return found

    def _match(self, who: Attribution) -> Sequence[Limit]:
        found = []
        for where, selector, value, settings in self._all:
            asks = getattr(who, selector)
            if asks and value in (asks, "*") and settings is not None:
                found.append(Limit(where=where, subject=f"{selector}={asks}", settings=settings))
        return found


def counted(limit: Limit, now_us: int) -> list[Counted]:
    """The buckets of a limit at a moment (µs since the epoch)."""
    found = []
    settings = limit.settings
    rates: tuple[tuple[Meter, int], ...] = (
        ("requests", settings.requests_per_minute),
        ("tokens", settings.tokens_per_minute),
    )
    for meter, most in rates:
        if most:
            # The number is part of the name: a level counted for another drain means nothing.
            name = f"{limit.name}/{meter}/{most}"
            bucket = Bucket(name, most * SCALE, most, now_us // _DAY_US * _DAY_US + 2 * _DAY_US)
            found.append(Counted(limit, meter, bucket))
    budgets: tuple[tuple[Meter, str], ...] = (
        ("day", settings.budget_per_day),
        ("month", settings.budget_per_month),
        ("total", settings.budget_total),
    )
    for meter, amount in budgets:
        if amount:
            label, resets_us, keep_us = _period(meter, now_us)
            bucket = Bucket(f"{limit.name}/{label}", nanos_of(amount), 0, keep_us)
            found.append(Counted(limit, meter, bucket, resets_us))
    return found


def _period(meter: Meter, now_us: int) -> tuple[str, int, int]:
    """Label, end and end of keeping of the UTC period that a moment is in."""
    if meter == "total":
        return "total", 0, 0
    day = datetime.fromtimestamp(now_us // 1_000_000, UTC).replace(hour=0, minute=0, second=0)
    if meter == "day":
        end, label = day + timedelta(days=1), f"{day:%Y-%m-%d}"
    else:
        end, label = (day.replace(day=1) + timedelta(days=32)).replace(day=1), f"{day:%Y-%m}"
    return label, int(end.timestamp()) * 1_000_000, int((end + _KEEP).timestamp()) * 1_000_000
