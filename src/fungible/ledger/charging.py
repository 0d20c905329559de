"""What one call costs by the token: which price row each leaf takes, exact, or why none."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import msgspec

from fungible.ledger.costing import units_of
from fungible.ledger.prices import INPUT_LEAVES, LEAVES, Call, PriceBasis, PriceBook, PriceRow
from fungible.ledger.rates import Rate

_MILLION = 1_000_000
_APART = "; "


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf's tokens at one price; `units` (10^-18) are in the book's currency.

    `original` is the amount in the price's own currency, and `rates` made one of the other.
    """

    leaf: str
    tokens: int
    price: PriceRow
    units: int
    original: Fraction | int
    rates: tuple[Rate, ...] = ()


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What a call costs: its parts, in the order of `LEAVES`.

    Attributes:
        prices: The rows in use; of a call without tokens those that would be.
    """

    currency: str
    parts: list[Part]
    prices: list[PriceRow]

    @property
    def units(self) -> int:
        """The amount in units of 10^-18."""
        return sum(part.units for part in self.parts)

    @property
    def issuer(self) -> str:
        """Who bills it."""
        return self.prices[0].issuer or self.prices[0].key

    def by_sku(self) -> dict[str, int]:
        """Units by SKU, or by leaf where the price names none."""
        found: dict[str, int] = {}
        for part in self.parts:
            sku = part.price.sku or part.leaf
            found[sku] = found.get(sku, 0) + part.units
        return found

    def source(self) -> str:
        """Where the prices are written down, and the rates in use."""
        rates = [rate for part in self.parts for rate in part.rates]
        said = [price.where for price in self.prices]
        said += [f"{rate.base}/{rate.quote} {rate.rate:f} of {rate.day}" for rate in rates]
        return _APART.join(dict.fromkeys(said))


def call_of(row: Mapping[str, Any]) -> Call:
    """The facts of an attempt that decide its price, from its row in the ledger."""
    into = [row[leaf] for leaf in INPUT_LEAVES]
    return Call(
        backend=row["backend"],
        at_ns=row["started_ns"],
        tier=row.get("tier", ""),
        region=row.get("region", ""),
        input_tokens=None if None in into else sum(into),
        issuer=row.get("issuer", ""),
        model=row.get("model", ""),
    )


def charge(
    book: PriceBook, row: Mapping[str, Any], basis: PriceBasis = "contracted"
) -> Charge | str:
    """What an attempt's tokens cost, or the reason why nobody can say.

    Args:
        book: The prices.
        row: The attempt as the ledger holds it: `backend`, `started_ns`, the leaves, …
        basis: Which prices.
    """
    call = call_of(row)
    rows = [one for one in book.of_call(call, basis) if one.unit == "1M_tokens"]
    if not any(one.covers(call.at_ns) for one in rows):
        return f"no {basis} price per token of {call.backend!r} holds at that moment"
    unknown = [leaf for leaf in LEAVES if row[leaf] is None or row[leaf] < 0]
    if unknown:
        return f"the count of {unknown[0]} is unknown"
    parts: list[Part] = []
    for leaf in LEAVES:
        if not row[leaf]:
            continue
        part = _part(book, rows, leaf, row[leaf], call)
        if isinstance(part, str):
            return part
        parts.append(part)
    prices = [part.price for part in parts] or [one for one in rows if one.covers(call.at_ns)]
    issuers = {price.issuer for price in prices}
    if len(issuers) > 1:
        return f"its prices name several issuers: {', '.join(sorted(issuers))}"
    return Charge(currency=book.currency, parts=parts, prices=prices)


def _part(book: PriceBook, rows: list[PriceRow], leaf: str, tokens: int, call: Call) -> Part | str:
    price = book.choose(rows, leaf, call)
    if isinstance(price, str):
        return price
    how = book.conversion(price, call.at_ns)
    if isinstance(how, str):
        return how
    scaled = tokens * units_of(price.price)  # a price has 12 digits at most, so this is exact:
    original = scaled // _MILLION if how is None else Fraction(scaled, _MILLION)
    units = scaled // _MILLION if how is None else how.units(Fraction(original))
    return Part(
        leaf=leaf,
        tokens=tokens,
        price=price,
        units=units,
        original=original,
        rates=() if how is None else how.rates,
    )


def places(price_source: str) -> set[str]:
    """The places that a line's `price_source` names."""
    return set(price_source.split(_APART)) | set(price_source.split())
