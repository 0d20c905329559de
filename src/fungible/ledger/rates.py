"""Exchange rates by day: which one holds, and what an amount is in another currency.

A rate of a day holds until the next one, but for `MOST_DAYS` at most: weekends and holidays
have none of their own, and a source that stopped must not price next month. Two currencies
without a rate of their own are converted through a third. Factors are exact fractions; the
amount is rounded once.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import msgspec

MOST_DAYS = 7
DAY_NS = 86_400 * 1_000_000_000
_FIRST = ("EUR", "USD")  # through which others are converted, before any other


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """1 `base` is `rate` `quote` on `day` and until the next one."""

    base: str
    quote: str
    day: date
    rate: Decimal
    source: str = ""


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """From one currency to another on one day: the factor, and the rates that it is made of."""

    factor: Fraction
    rates: tuple[Rate, ...]

    def units(self, amount: Fraction) -> int:
        """An amount in units of 10^-18, converted and rounded half to even."""
        return round(amount * self.factor)


class RateBook:
    """All rates that are known."""

    def __init__(self, rates: Iterable[Rate] = ()) -> None:
        self._pairs: dict[tuple[str, str], list[Rate]] = defaultdict(list)
        for rate in sorted(rates, key=lambda rate: rate.day):
            self._pairs[rate.base, rate.quote].append(rate)

    def between(self, have: str, want: str, day: date) -> Conversion | None:
        """How to convert on a day; `None` when no rate is recent enough."""
        if direct := self._leg(have, want, day):
            return direct
        names = {name for pair in self._pairs for name in pair} - {have, want}
        for middle in sorted(names, key=lambda name: (name not in _FIRST, name)):
            first, second = self._leg(have, middle, day), self._leg(middle, want, day)
            if first and second:
                return Conversion(
                    factor=first.factor * second.factor, rates=first.rates + second.rates
                )
        return None

    def edges(self, have: str, want: str) -> list[int]:
        """Moments (ns) at which a conversion may change."""
        days: set[date] = set()
        for pair, rates in self._pairs.items():
            if have in pair or want in pair:
                days.update(rate.day for rate in rates)
        ends = {day + timedelta(days=MOST_DAYS + 1) for day in days}
        return sorted(day_ns(day) for day in days | ends)

    def facts(self) -> list[tuple[str, str, str, str]]:
        """Everything that decides an amount, in order."""
        rates = (rate for rates in self._pairs.values() for rate in rates)
        return sorted((one.base, one.quote, str(one.day), f"{one.rate:f}") for one in rates)

    def _leg(self, have: str, want: str, day: date) -> Conversion | None:
        if rate := self._newest((have, want), day):
            return Conversion(factor=Fraction(rate.rate), rates=(rate,))
        if rate := self._newest((want, have), day):
            return Conversion(factor=1 / Fraction(rate.rate), rates=(rate,))
        return None

    def _newest(self, pair: tuple[str, str], day: date) -> Rate | None:
        rates = self._pairs.get(pair, [])
        at = bisect_right(rates, day, key=lambda rate: rate.day)
        if at and day - rates[at - 1].day <= timedelta(days=MOST_DAYS):
            return rates[at - 1]
        return None


def day_of(ns: int) -> date:
    """The day (UTC) of a moment."""
    return datetime.fromtimestamp(ns // 1_000_000_000, tz=UTC).date()


def day_ns(day: date) -> int:
    """The beginning of a day (UTC) in ns."""
    return (day - date(1970, 1, 1)).days * DAY_NS
