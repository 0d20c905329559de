"""A call takes the price row that its own facts choose, exactly, or has no price."""

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.ledger.charging import Charge, charge
from fungible.ledger.costing import UNITS, amount_of
from fungible.ledger.prices import FOREVER, LEAVES, PriceBook, PriceRow
from fungible.ledger.rates import MOST_DAYS, Rate, RateBook, day_ns

DAY = date(2026, 10, 6)
AT = day_ns(DAY) + 1


def row(price: str = "1", leaf: str = "input", **changes: Any) -> PriceRow:
    fields: dict[str, Any] = {
        "key": "b",
        "unit": "1M_tokens",
        "leaf": leaf,
        "price": Decimal(price),
        "currency": "USD",
        "from_ns": 0,
        "to_ns": FOREVER,
        "where": f"{leaf}@{price}",
    }
    return PriceRow(**(fields | changes))


def call(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(LEAVES, 0) | {"in_uncached": 1_000_000}
    return fields | {"backend": "b", "started_ns": AT} | changes


def cost(book: PriceBook, **changes: Any) -> Decimal | str:
    found = charge(book, call(**changes))
    return amount_of(found.units).normalize() if isinstance(found, Charge) else found


def rate(value: str, *, base: str = "EUR", quote: str = "USD", day: date = DAY) -> Rate:
    return Rate(base=base, quote=quote, day=day, rate=Decimal(value), source="test")


@given(
    st.dictionaries(st.sampled_from(LEAVES), st.integers(0, 10**9), min_size=5),
    st.dictionaries(st.sampled_from(LEAVES), st.decimals(0, 10**6, places=12), min_size=5),
)
def test_token_costs_are_exact(usage: dict[str, int], prices: dict[str, Decimal]) -> None:
    book = PriceBook(tuple(row(f"{price:f}", leaf) for leaf, price in prices.items()))
    found = charge(book, call(**usage))
    assert isinstance(found, Charge)
    exact = sum((Fraction(prices[leaf]) * usage[leaf] / 10**6 for leaf in LEAVES), Fraction(0))
    assert Fraction(found.units, UNITS) == exact
    assert sum(found.by_sku().values()) == found.units


def test_what_is_unknown_is_not_free() -> None:
    book = PriceBook((row(leaf="in_uncached"),))
    assert cost(book) == 1
    assert cost(book, out_visible=1) == "no price of out_visible at that moment"
    assert cost(book, out_visible=None) == "the count of out_visible is unknown"
    assert "no contracted price per token of 'b'" in str(cost(PriceBook()))
    assert "no contracted price per token of 'c'" in str(cost(book, backend="c"))


@pytest.mark.parametrize(
    ("tier", "says"),
    [
        ("", 1),
        ("default", 1),
        ("Standard", 1),
        ("flex", Decimal("0.5")),
        ("priority", "no price for the tier 'priority'"),
        ("auto", "no price for the tier 'auto'"),
    ],
)
def test_a_tier_is_never_taken_for_the_standard_one(tier: str, says: object) -> None:
    book = PriceBook((row("1"), row("0.5", tier="flex")))
    assert cost(book, tier=tier) == says


def test_one_price_for_all_tiers_must_be_written_so() -> None:
    book = PriceBook((row("1", tier="*"), row("2", tier="batch")))
    assert [cost(book, tier=tier) for tier in ("", "priority", "batch")] == [1, 1, 2]


def test_a_leaf_takes_its_own_price_only_in_its_own_tier() -> None:
    book = PriceBook((row("1"), row("0.1", "in_cache_read"), row("3", tier="priority")))
    cached = {"in_uncached": 0, "in_cache_read": 1_000_000}
    assert cost(book, **cached) == Decimal("0.1")
    assert cost(book, tier="priority", **cached) == 3


def test_regions() -> None:
    book = PriceBook((row("1"), row("1.1", region="us-east-1")))
    assert cost(book, region="us-east-1") == Decimal("1.1")
    assert cost(book, region="eu-west-1") == 1
    assert cost(book) == "prices differ by region, and the call states none"
    only = PriceBook((row("1.1", region="us-east-1"),))
    assert cost(only, region="eu-west-1") == "no price for the region 'eu-west-1'"


def test_the_context_band_is_that_of_the_call_alone() -> None:
    book = PriceBook(
        (
            row("1", context_to=200_000),
            row("2", context_from=200_000, context_to=400_000),
            row("5", "output"),
        )
    )
    assert cost(book, in_uncached=100_000, in_cache_read=99_999) == Decimal("0.199999")
    assert cost(book, in_uncached=100_000, in_cache_read=100_000) == Decimal("0.4")
    assert cost(book, in_uncached=400_000) == "no price for 400000 input tokens"
    assert (
        cost(book, in_uncached=10, in_cache_write=None) == "the count of in_cache_write is unknown"
    )


def test_parts_and_issuer_are_as_the_invoice_names_them() -> None:
    book = PriceBook(
        (
            row("1", issuer="OpenAI", sku="gpt-in"),
            row("0.5", "in_cache_read", issuer="OpenAI", sku="gpt-in"),
            row("2", "output", issuer="OpenAI"),
        )
    )
    found = charge(book, call(in_cache_read=1_000_000, out_visible=500_000))
    assert isinstance(found, Charge)
    assert found.by_sku() == {"gpt-in": 3 * UNITS // 2, "out_visible": UNITS}
    assert (found.issuer, found.source()) == ("OpenAI", "input@1; in_cache_read@0.5; output@2")
    mixed = PriceBook((row("1", issuer="A"), row("2", "output", issuer="B")))
    assert cost(mixed, out_visible=1) == "its prices name several issuers: A, B"


def test_a_call_without_a_backend_of_its_own_is_priced_by_issuer_and_model() -> None:
    book = PriceBook((row("1", key="openai/gpt-5"),))
    assert cost(book, backend="openai", issuer="openai", model="gpt-5") == 1
    assert "no contracted price" in str(cost(book, backend="openai", issuer="openai", model="x"))


def test_list_prices_are_another_basis() -> None:
    book = PriceBook((row("1"), row("3", basis="list")))
    found = charge(book, call(), "list")
    assert isinstance(found, Charge)
    assert (found.units, charge(book, call()).units) == (3 * UNITS, UNITS)  # type: ignore[union-attr]
    only = PriceBook((row("3", basis="list"),))
    assert "no contracted price" in str(cost(only))


def test_another_currency_is_converted_at_the_rate_of_the_day() -> None:
    rates = RateBook([rate("1.25"), rate("1.5", day=DAY + timedelta(1))])
    euros = (row("2", currency="EUR"),)
    book = PriceBook(euros, currency="USD", rates=rates)
    assert cost(book) == Decimal("2.5")
    assert cost(book, started_ns=AT + 86_400 * 10**9) == 3
    late = day_ns(DAY + timedelta(1 + MOST_DAYS + 1)) - 1
    assert cost(book, started_ns=late) == 3
    assert cost(book, started_ns=late + 1) == (
        f"no exchange rate from EUR to USD for {DAY + timedelta(MOST_DAYS + 2)}"
    )
    assert cost(book, started_ns=day_ns(DAY) - 1).startswith("no exchange rate")  # type: ignore[union-attr]
    # Nor is it taken for the book's own currency where the rates are not at hand.
    assert PriceBook(euros, currency="USD").tokens("b", AT) == {}


def test_the_inverse_and_the_way_through_a_third_currency() -> None:
    rates = RateBook([rate("1.25"), rate("0.8", quote="GBP")])
    pounds = PriceBook((row("1", currency="USD"),), currency="GBP", rates=rates)
    assert cost(pounds) == Decimal("0.64")
    found = charge(pounds, call())
    assert isinstance(found, Charge)
    assert [one.quote for one in found.parts[0].rates] == ["USD", "GBP"]
    assert "EUR/USD 1.25 of 2026-10-06" in found.source()


@given(st.integers(1, 10**9), st.decimals("0.0001", 1000, places=6), st.decimals(0, 999, places=12))
def test_a_conversion_rounds_once(tokens: int, value: Decimal, price: Decimal) -> None:
    rates = RateBook([rate(f"{value:f}")])
    book = PriceBook((row(f"{price:f}", currency="EUR"),), currency="USD", rates=rates)
    found = charge(book, call(in_uncached=tokens))
    assert isinstance(found, Charge)
    exact = Fraction(price) * tokens / 10**6 * Fraction(value)
    assert abs(Fraction(found.units, UNITS) - exact) <= Fraction(1, 2 * UNITS)


def test_an_hourly_price_follows_the_rate_and_ends_with_it() -> None:
    hour = row("2", leaf="", unit="hour", currency="EUR", from_ns=AT)
    rates = RateBook([rate("1.25"), rate("1.5", day=DAY + timedelta(2))])
    book = PriceBook((hour,), currency="USD", rates=rates)
    first, second = book.hourly("b")
    assert (first.price, first.from_ns) == (Decimal("2.5"), AT)
    assert first.to_ns == second.from_ns == day_ns(DAY + timedelta(2))
    assert (second.price, second.currency) == (3, "USD")
    assert second.to_ns == day_ns(DAY + timedelta(2 + MOST_DAYS + 1))


def test_the_digest_follows_rates_only_where_they_count() -> None:
    euro, dollar = row("2", currency="EUR"), row("2")
    one, two = RateBook([rate("1.25")]), RateBook([rate("1.5")])
    books = [PriceBook((euro,), currency="USD", rates=rates).digest for rates in (one, two)]
    assert books[0] != books[1]
    books = [PriceBook((dollar,), currency="USD", rates=rates).digest for rates in (one, two)]
    assert books[0] == books[1]
