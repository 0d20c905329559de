"""What one whole answer cost, as a response header."""

import time

from fungible.contract.events import AttemptEvent
from fungible.ledger.costing import amount_of, token_units
from fungible.ledger.prices import FOREVER, LEAVES, PriceBook, PriceRow


class CostTag:
    """Prices answers by the token. An hour's price is shared later, so it gives no header."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._found: dict[str, tuple[int, dict[str, PriceRow]]] = {}

    def of(self, row: AttemptEvent) -> str:
        """Amount and currency, such as `0.000123 USD`, exact; empty when it cannot be known."""
        prices = self._prices(row.backend)
        if not prices:
            return ""
        units = token_units({leaf: getattr(row, leaf) for leaf in LEAVES}, prices)
        if units is None:
            return ""
        amount = f"{amount_of(units):f}".rstrip("0").rstrip(".")
        return f"{amount or '0'} {next(iter(prices.values())).currency}"

    def _prices(self, backend: str) -> dict[str, PriceRow]:
        """Prices of this moment; looked up again when one begins or ends."""
        now = time.time_ns()
        found = self._found.get(backend)
        if found is None or now >= found[0]:
            rows = self._book.of_backend(backend)
            edges = [edge for row in rows for edge in (row.from_ns, row.to_ns) if edge > now]
            found = (min(edges, default=FOREVER), self._book.tokens(backend, now))
            self._found[backend] = found
        return found[1]
