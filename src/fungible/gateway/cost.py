"""What one whole answer cost, as a response header."""

from fungible.contract.events import AttemptEvent
from fungible.ledger.charging import charge
from fungible.ledger.costing import amount_of
from fungible.ledger.prices import LEAVES, PriceBook

_FACTS = ("backend", "started_ns", "region", "model", *LEAVES)


class CostTag:
    """Prices answers by the token. An hour's price is shared later, so it gives no header."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book

    def of(self, row: AttemptEvent) -> str:
        """Amount and currency, such as `0.000123 USD`, exact; empty when it cannot be known."""
        if not self._book.of_backend(row.backend):
            return ""
        found = charge(self._book, {name: getattr(row, name) for name in _FACTS})
        if isinstance(found, str):
            return ""
        amount = f"{amount_of(found.units):f}".rstrip("0").rstrip(".")
        return f"{amount or '0'} {found.currency}"
