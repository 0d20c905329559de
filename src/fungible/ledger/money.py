"""An amount with its basis and currency; two of different kinds are never added up."""

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Literal

import msgspec

from fungible.errors import BasisError

Basis = Literal["list", "contracted", "effective", "marginal", "billed"]
_EXACT = Context(prec=76)


class Money(msgspec.Struct, frozen=True):
    """An exact amount of one currency on one basis.

    list: the public price. contracted: what the contract says. effective: what was paid anyway,
    shared among those who used it. marginal: what one more call adds. billed: what the invoice
    says.
    """

    basis: Basis
    currency: str
    amount: Decimal = Decimal(0)

    def __add__(self, other: "Money") -> "Money":
        return Money(self.basis, self.currency, _EXACT.add(self.amount, self._like(other)))

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.basis, self.currency, _EXACT.subtract(self.amount, self._like(other)))

    def __neg__(self) -> "Money":
        return Money(self.basis, self.currency, _EXACT.minus(self.amount))

    def as_effective(self) -> "Money":
        """Contracted cost that no commitment stands behind is effective cost as it is.

        Raises:
            BasisError: It is on another basis.
        """
        if self.basis not in ("contracted", "effective"):
            raise BasisError(f"{self.basis} cost is not effective cost")
        return Money("effective", self.currency, self.amount)

    def minus_priced(self, priced: "Money") -> Decimal:
        """What an invoice bills beyond what we priced: the one comparison across bases.

        Raises:
            BasisError: This is not billed, that neither contracted nor effective, or the
                currencies differ.
        """
        if self.basis != "billed" or priced.basis not in ("contracted", "effective"):
            raise BasisError(f"{self.basis} is not compared with {priced.basis}")
        if self.currency != priced.currency:
            raise BasisError(f"{self.currency} is not compared with {priced.currency}")
        return _EXACT.subtract(self.amount, priced.amount)

    def _like(self, other: object) -> Decimal:
        if not isinstance(other, Money):
            raise BasisError(f"{self.basis} {self.currency} and a bare {type(other).__name__}")
        if (other.basis, other.currency) != (self.basis, self.currency):
            raise BasisError(
                f"{self.basis} {self.currency} and {other.basis} {other.currency} do not add up"
            )
        return other.amount


def total(amounts: Iterable[Money], basis: Basis, currency: str) -> Money:
    """The sum, which is 0 of that kind where there is none.

    Raises:
        BasisError: One is of another kind.
    """
    found = Money(basis, currency)
    for amount in amounts:
        found = found + amount
    return found
