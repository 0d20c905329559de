"""The price book as it was known at a moment: the configured sheet and what was imported.

Of each imported sheet the newest import holds that was known by then, if it is whole: an
import whose rows are not all there yet counts for nothing. Exchange rates likewise: of
several for one day, the newest that was known.
"""

from typing import Any

import msgspec

from fungible.config import Config
from fungible.ledger.prices import FOREVER, PriceBook, PriceRow
from fungible.ledger.queries import Queryable
from fungible.ledger.rates import Rate, RateBook
from fungible.ledger.sheets import book_of, check_rows, configured_rows

RECEIPTS = "prices"
_MOST_ROWS = 1_000_000

_IMPORTED = """
SELECT * FROM price_rows FINAL WHERE (sheet, known_ns) IN
(
    SELECT sheet, max(known_ns) FROM
    (
        SELECT p.sheet AS sheet, p.known_ns AS known_ns, any(p.digest) AS digest, count() AS n
        FROM (SELECT sheet, known_ns, digest FROM price_rows FINAL) AS p
        WHERE p.known_ns <= {known:Int64}
        GROUP BY sheet, known_ns
    ) AS s
    INNER JOIN
    (
        SELECT digest, rows FROM imports FINAL WHERE stream = 'prices'
    ) AS i ON i.digest = s.digest AND i.rows = s.n
    GROUP BY sheet
)
ORDER BY sheet, row
"""
_RATES = """
SELECT base, quote, day, argMax(r.rate, (r.known_ns, r.source)) AS rate,
    argMax(r.source, (r.known_ns, r.source)) AS source
FROM (SELECT * FROM fx_rates FINAL) AS r WHERE r.known_ns <= {known:Int64}
GROUP BY base, quote, day ORDER BY base, quote, day
"""
_STATE = """
SELECT (SELECT (count(), max(ingested_ns)) FROM price_rows),
    (SELECT (count(), max(ingested_ns)) FROM fx_rates),
    (SELECT (count(), max(at_ns)) FROM imports WHERE stream = 'prices')
"""


class KnownPrices:
    """The book of now, read again only when something was imported.

    Args:
        config: Names the sheet, the keys and the currency.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rows = configured_rows(config)
        self._book = book_of(config, self._rows)
        self._state: tuple[Any, ...] = ()

    def book(self, source: Queryable) -> PriceBook:
        """What is known now."""
        state = tuple(source.query(_STATE).rows[0])
        if state != self._state:
            self._book = _book(self._config, self._rows, source, FOREVER)
            self._state = state
        return self._book


def book_as_known(config: Config, source: Queryable, known_ns: int = FOREVER) -> PriceBook:
    """The book as it was known at a moment.

    Raises:
        ConfigError: Rows contradict each other, or there are several currencies and none to
            report in.
    """
    return _book(config, configured_rows(config), source, known_ns)


def imported_rows(source: Queryable, known_ns: int = FOREVER) -> list[PriceRow]:
    """The rows of all imported sheets as known at a moment."""
    rows = source.query(_IMPORTED, {"known": known_ns}, max_rows=_MOST_ROWS).dicts()
    return [_price_row(row) for row in rows if row["unit"]]


def _book(
    config: Config, configured: tuple[PriceRow, ...], source: Queryable, known_ns: int
) -> PriceBook:
    imported = imported_rows(source, known_ns)
    rows = (*configured, *imported)
    if imported:
        check_rows(rows)
    book = book_of(config, rows)
    if all(row.currency == book.currency for row in rows):
        return book
    rates = rates_as_known(source, known_ns)
    return PriceBook(rows, book.keys, book.idle, currency=book.currency, rates=rates)


def rates_as_known(source: Queryable, known_ns: int = FOREVER) -> RateBook:
    """All exchange rates as known at a moment."""
    found = source.query(_RATES, {"known": known_ns}, max_rows=_MOST_ROWS).dicts()
    return RateBook(msgspec.convert(row, Rate) for row in found)


def _price_row(row: dict[str, Any]) -> PriceRow:
    renamed = {
        "from_ns": row["valid_from_ns"],
        "to_ns": row["valid_to_ns"] or FOREVER,
        "where": row["place"],
    }
    return msgspec.convert(row | renamed, PriceRow)
