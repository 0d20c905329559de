"""Public list prices become rows only as far as our leaves and tiers can express them."""

import socket
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.data import providers

from fungible.errors import InputError
from fungible.ingest.list_prices import list_prices
from fungible.ledger.charging import Charge, charge
from fungible.ledger.costing import amount_of
from fungible.ledger.prices import LEAVES, PriceBook
from fungible.ledger.rates import day_ns, day_of
from fungible.ledger.sheets import check_rows, moment_ns


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a list of prices needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def cost(book: PriceBook, model: str, at: str, **changes: Any) -> Decimal | str:
    row: dict[str, Any] = dict.fromkeys(LEAVES, 0) | {"in_uncached": 1_000_000}
    row |= {"backend": "", "issuer": "openai", "model": model, "started_ns": moment_ns(at)}
    found = charge(book, row | changes, "list")
    return amount_of(found.units) if isinstance(found, Charge) else found


def test_every_row_is_sound_and_what_is_left_out_is_named() -> None:
    found = list_prices()
    check_rows(found.rows)
    known = {f"{one.id}/{model.id}" for one in providers for model in one.models}
    kept, left = {row.key for row in found.rows}, {place for place, _ in found.skipped}
    assert known - kept <= left | {key for key in known if not _priced(key)}
    assert {row.basis for row in found.rows} == {"list"}
    assert all(reason for _, reason in found.skipped)


def _priced(key: str) -> bool:
    """Whether the library has any price by the token of that model."""
    owner, _, name = key.partition("/")
    model = next(m for one in providers if one.id == owner for m in one.models if m.id == name)
    prices = model.prices if isinstance(model.prices, list) else [model]
    return any("mtok" in k for p in prices for k, v in vars(p.prices).items() if v is not None)


def test_a_price_cut_has_its_date() -> None:
    book = PriceBook(tuple(list_prices("openai", ("o3",)).rows))
    (cut,) = {row.from_ns for row in book.rows if row.from_ns and not row.tier}
    before, after = day_of(cut - 1).isoformat(), day_of(cut).isoformat()
    assert cut == day_ns(day_of(cut))
    assert (cost(book, "o3", before), cost(book, "o3", after)) == (10, 2)


def test_a_tier_without_a_price_of_its_own_is_unpriced() -> None:
    book = PriceBook(tuple(list_prices("openai", ("gpt-5",)).rows))
    at = "2026-11-01"
    standard, flex = (cost(book, "gpt-5", at, tier=tier) for tier in ("default", "flex"))
    assert isinstance(standard, Decimal)
    assert flex == standard / 2
    assert cost(book, "gpt-5", at, tier="bogus") == "no price for the tier 'bogus'"
    # The library takes the parent's price where a leaf has none.
    assert cost(book, "gpt-5", at, in_cache_write=1) == "no price of in_cache_write at that moment"
    assert cost(book, "gpt-5", "2026-10-01", tier="flex") == "no price for the tier 'flex'"


def test_what_it_does_not_know() -> None:
    with pytest.raises(InputError, match="no provider 'nobody'"):
        list_prices("nobody")
    with pytest.raises(InputError, match="no model 'gpt-0'"):
        list_prices("openai", ("gpt-0",))
