"""Amounts are exact, and amounts of different kinds do not add up."""

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.errors import BasisError
from fungible.ledger.money import Basis, Money, total

bases = st.sampled_from(get_args(Basis))
currencies = st.sampled_from(["USD", "EUR", "JPY"])
amounts = st.decimals(-(10**19), 10**19, places=18, allow_nan=False)


@given(st.lists(amounts, max_size=20), bases, currencies, st.randoms())
def test_a_sum_is_exact_in_any_order(
    found: list[Decimal], basis: Basis, currency: str, chance: object
) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    with localcontext(prec=5):  # nobody's context matters
        sums = [
            total((Money(basis, currency, one) for one in order), basis, currency).amount
            for order in (found, shuffled)
        ]
    assert sums[0] == sums[1]
    assert Fraction(sums[0]) == sum(map(Fraction, found), Fraction(0))


@given(bases, bases, currencies, currencies)
def test_only_the_same_kind_adds_up(one: Basis, other: Basis, here: str, there: str) -> None:
    first, second = Money(one, here, Decimal(1)), Money(other, there, Decimal(2))
    if (one, here) == (other, there):
        assert (first + second).amount == 3
        assert (second - first).amount == 1
        return
    with pytest.raises(BasisError):
        first + second
    with pytest.raises(TypeError):
        first - second


def test_a_bare_number_is_no_money() -> None:
    with pytest.raises(BasisError, match="a bare Decimal"):
        Money("list", "USD") + Decimal(1)  # type: ignore[operator]
    with pytest.raises(TypeError):
        sum([Money("list", "USD", Decimal(1))])  # type: ignore[call-overload]


def test_what_may_be_compared_or_counted_as_effective() -> None:
    billed, priced = Money("billed", "USD", Decimal(3)), Money("contracted", "USD", Decimal(2))
    assert billed.minus_priced(priced) == 1
    assert priced.as_effective() == Money("effective", "USD", Decimal(2))
    for wrong in (billed.as_effective, Money("list", "USD").as_effective):
        with pytest.raises(BasisError):
            wrong()
    for first, second in (
        (priced, billed),
        (billed, Money("list", "USD")),
        (billed, Money("contracted", "EUR")),
    ):
        with pytest.raises(BasisError):
            first.minus_priced(second)
