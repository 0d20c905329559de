"""The price book: what a backend's time or tokens cost, when that was true, and for which calls.

A row of a sheet (`sheets.py`) prices an hour of a backend, or a million tokens of a leaf.
`input` and `output` price every leaf under them that has no row of its own for the call.
Which row holds for a call is decided by the call's own facts and never guessed:

- moment: `[from_ns, to_ns)` holds the attempt's start;
- tier: an empty tier is the standard one, `*` is any; a call that states another tier is
  priced by a row of that tier or not at all;
- region: a row that names one holds there, and wins over a row for everywhere. A call that
  states no region has no price where some rows name one;
- context: the call's input tokens lie in `[context_from, context_to)`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import msgspec

from fungible.ledger.rates import Conversion, RateBook, day_of

INPUT_LEAVES = ("in_uncached", "in_cache_read", "in_cache_write")
OUTPUT_LEAVES = ("out_visible", "out_reasoning")
LEAVES = (*INPUT_LEAVES, *OUTPUT_LEAVES)
PARENT = dict.fromkeys(INPUT_LEAVES, "input") | dict.fromkeys(OUTPUT_LEAVES, "output")
FOREVER = (1 << 63) - 1
ANY_TIER = "*"
_SCALE = 18
_STANDARD = frozenset({"", "default", "standard", "on-demand", "on_demand"})
_EXACT = Context(prec=76)

Unit = Literal["hour", "1M_tokens"]
PriceBasis = Literal["list", "contracted"]


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a sheet. It holds in `[from_ns, to_ns)`.

    Attributes:
        where: Line or cell that it was read from: `prices.csv:3`, `contract.xlsx!Prices!D7`.
        sheet, known_ns: Of an imported row: the sheet's name, and since when we know it.
        issuer, sku: As the invoice names them; empty: the key, and the leaf.
        context_to: 0 is no bound.
    """

    key: str
    unit: Unit
    leaf: str
    price: Decimal
    currency: str
    from_ns: int
    to_ns: int
    source: str = ""
    note: str = ""
    where: str = ""
    basis: PriceBasis = "contracted"
    issuer: str = ""
    sku: str = ""
    tier: str = ""
    region: str = ""
    context_from: int = 0
    context_to: int = 0
    contract: str = ""
    sheet: str = ""
    known_ns: int = 0

    def covers(self, at_ns: int) -> bool:
        """Whether the price held at that moment."""
        return self.from_ns <= at_ns < self.to_ns

    def decides(self) -> tuple[object, ...]:
        """Everything that decides an amount."""
        what = (self.key, self.unit, self.leaf, f"{self.price.normalize():f}", self.currency)
        when = (self.from_ns, self.to_ns, self.basis, self.issuer, self.sku)
        return (*what, *when, self.tier, self.region, self.context_from, self.context_to)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the price of one call. `input_tokens` is `None` where it is unknown."""

    backend: str
    at_ns: int
    tier: str = ""
    region: str = ""
    input_tokens: int | None = None
    issuer: str = ""
    model: str = ""


class IdlePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who reserved how much of a backend, and how much of it is kept free; shares of 0 to 1."""

    reserved_by: str = ""
    reserved_share: float = 1.0
    headroom: float = 0.0


class PriceBook:
    """Prices of one state of knowledge, looked up by backend.

    Args:
        rows: Checked rows, see `sheets.py`.
        keys: Backend -> price key, for backends whose key is not their own name.
        idle: Backend -> who answers for its idle time, where that is not all the platform.
        currency: What amounts are reported in; empty: that of the first row.
        rates: Exchange rates, for rows in other currencies.
    """

    def __init__(
        self,
        rows: tuple[PriceRow, ...] = (),
        keys: Mapping[str, str] | None = None,
        idle: Mapping[str, IdlePolicy] | None = None,
        *,
        currency: str = "",
        rates: RateBook | None = None,
    ) -> None:
        self.rows = rows
        self.keys = dict(keys or {})
        self.idle = dict(idle or {})
        self.currency = currency or (rows[0].currency if rows else "")
        self.rates = rates or RateBook()
        self._by_key: dict[tuple[str, str], list[PriceRow]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row.from_ns):
            self._by_key[row.key, row.basis].append(row)
        self._hourly: dict[str, list[PriceRow]] = {}
        self._digest = ""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over everything that decides an amount."""
        if not self._digest:
            foreign = any(row.currency != self.currency for row in self.rows)
            facts = [
                sorted(msgspec.json.encode(row.decides()).decode() for row in self.rows),
                sorted(self.keys.items()),
                sorted(self.idle.items()),
                [self.currency, *(self.rates.facts() if foreign else [])],
            ]
            self._digest = hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:16]
        return self._digest

    def of_backend(self, backend: str, basis: PriceBasis = "contracted") -> list[PriceRow]:
        """Every row of a backend, oldest first."""
        return self._by_key.get((self.keys.get(backend) or backend, basis), [])

    def of_call(self, call: Call, basis: PriceBasis = "contracted") -> list[PriceRow]:
        """Every row of a call's backend; without one, those of the key `issuer/model`."""
        found = self.of_backend(call.backend, basis)
        if not found and call.issuer:
            found = self._by_key.get((f"{call.issuer}/{call.model}", basis), [])
        return found

    def hourly(self, backend: str) -> list[PriceRow]:
        """Prices per hour in the book's currency, oldest first; they do not overlap.

        One in another currency is cut where its exchange rate changes, and converted to 18
        digits after the point. Where no rate holds there is no price.
        """
        if backend not in self._hourly:
            found: list[PriceRow] = []
            for row in self.of_backend(backend):
                if row.unit == "hour":
                    found += [row] if row.currency == self.currency else self._converted(row)
            self._hourly[backend] = found
        return self._hourly[backend]

    def tokens(self, backend: str, at_ns: int) -> dict[str, PriceRow]:
        """The price of each leaf at that moment, for estimates before a call.

        Of several rows (regions, contexts) the dearest of the standard tier; leaves without a
        price in the book's currency are left out. What a call did cost is `choose`'s.
        """
        dearest: dict[str, PriceRow] = {}
        for row in self.of_backend(backend):
            usable = row.unit == "1M_tokens" and row.currency == self.currency
            if usable and row.covers(at_ns) and row.tier in ("", ANY_TIER):
                known = dearest.get(row.leaf)
                if known is None or row.price > known.price:
                    dearest[row.leaf] = row
        prices = {leaf: dearest.get(leaf) or dearest.get(PARENT[leaf]) for leaf in LEAVES}
        return {leaf: row for leaf, row in prices.items() if row is not None}

    def choose(self, rows: Sequence[PriceRow], leaf: str, call: Call) -> PriceRow | str:
        """The row that prices one leaf of a call, or why there is none.

        Args:
            rows: Those of the call, see `of_call`.
            leaf: One of `LEAVES`.
            call: The call's facts.
        """
        reason = f"no price of {leaf} at that moment"
        for name in (leaf, PARENT[leaf]):
            held = [
                row
                for row in rows
                if row.leaf == name and row.unit == "1M_tokens" and row.covers(call.at_ns)
            ]
            found = _narrowed(held, call) if held else reason
            if isinstance(found, PriceRow):
                return found
            reason = found
        return reason

    def conversion(self, row: PriceRow, at_ns: int) -> Conversion | str | None:
        """How a row's price becomes the book's currency: not at all, so, or why it cannot."""
        if row.currency == self.currency:
            return None
        day = day_of(at_ns)
        found = self.rates.between(row.currency, self.currency, day)
        return found or f"no exchange rate from {row.currency} to {self.currency} for {day}"

    def _converted(self, row: PriceRow) -> list[PriceRow]:
        inside = [
            edge
            for edge in self.rates.edges(row.currency, self.currency)
            if row.from_ns < edge < row.to_ns
        ]
        edges = [row.from_ns, *inside, row.to_ns]
        found: list[PriceRow] = []
        for start, end in pairwise(edges):
            how = self.rates.between(row.currency, self.currency, day_of(start))
            if how is not None:
                units = how.units(Fraction(row.price) * 10**_SCALE)
                price = _EXACT.scaleb(Decimal(units), -_SCALE)
                changes = {"price": price, "currency": self.currency}
                piece = msgspec.structs.replace(row, from_ns=start, to_ns=end, **changes)
                if found and (found[-1].to_ns, found[-1].price) == (start, price):
                    piece = msgspec.structs.replace(found.pop(), to_ns=end)
                found.append(piece)
        return found


def tier_of(stated: str) -> str:
    """A stated tier in the book's terms: empty is the standard one."""
    tier = stated.strip().lower()
    return "" if tier in _STANDARD else tier


def _narrowed(held: Sequence[PriceRow], call: Call) -> PriceRow | str:
    """Of rows for one leaf at one moment, the one for the call; or what is in the way."""
    tier = tier_of(call.tier)
    fit = [row for row in held if row.tier == tier] or [row for row in held if row.tier == ANY_TIER]
    if not fit:
        return f"no price for the tier {tier or 'standard'!r}"
    if any(row.region for row in fit):
        if not call.region:
            return "prices differ by region, and the call states none"
        fit = [row for row in fit if row.region == call.region] or [
            row for row in fit if not row.region
        ]
        if not fit:
            return f"no price for the region {call.region!r}"
    if any(row.context_from or row.context_to for row in fit):
        tokens = call.input_tokens
        if tokens is None:
            return "prices differ by context, and the input tokens are unknown"
        fit = [row for row in fit if _in_context(row, tokens)]
        if not fit:
            return f"no price for {tokens} input tokens"
    return fit[0]


def _in_context(row: PriceRow, tokens: int) -> bool:
    return row.context_from <= tokens and (not row.context_to or tokens < row.context_to)
