"""dbt's variables: what the user gave, and what only the price book knows."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from urllib.parse import quote

import msgspec
import yaml

from fungible.config import Config
from fungible.errors import InputError
from fungible.ledger.known_prices import book_as_known
from fungible.ledger.prices import FOREVER, PriceBook
from fungible.ledger.rates import day_of
from fungible.ledger.store import Store, open_store
from fungible.warehouse.target import Target

_LAST_DAY = date(2149, 6, 6)  # of ClickHouse's Date


def variables_of(text: str) -> dict[str, object]:
    """The user's variables from YAML.

    Raises:
        InputError: They are no mapping.
    """
    try:
        found = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        raise InputError(f"--vars is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise InputError("--vars is not a mapping", hint='such as "lookback_hours: 12"')
    return {str(name): value for name, value in found.items()}


def of_price_book(config: Config, target: Target) -> dict[str, object]:
    """`currency`, in which amounts are reported, and `hourly_prices`."""
    with _store(target) as store:
        book = book_as_known(config, store)
        leased = store.query("SELECT DISTINCT backend FROM leases ORDER BY backend").rows
    return {"currency": book.currency, "hourly_prices": _hourly_prices(book, leased)}


def _hourly_prices(book: PriceBook, leased: Iterable[Sequence[str]]) -> list[dict[str, str]]:
    """Who bills each backend's hours, and as which SKU, from day to day (UTC, inclusive).

    A day on which the price changes belongs to the earlier one, as in `cost reconcile`.
    """
    found = []
    for (backend,) in leased:
        for row in book.hourly(backend):
            last = _LAST_DAY if row.to_ns == FOREVER else min(_LAST_DAY, day_of(row.to_ns - 1))
            one = {"backend": backend, "first_day": str(day_of(max(0, row.from_ns)))}
            one |= {"last_day": str(last), "issuer": row.issuer or row.key}
            found.append(one | {"sku": row.sku or "hour"})
    return found


def encoded(variables: dict[str, object]) -> str:
    """As dbt takes them: JSON is YAML."""
    return msgspec.json.encode(variables).decode()


@contextlib.contextmanager
def _store(target: Target) -> Iterator[Store]:
    scheme = "clickhouses" if target.secure else "clickhouse"
    who = f"{quote(target.user, safe='')}:{quote(target.password, safe='')}"
    with contextlib.closing(
        open_store(f"{scheme}://{who}@{target.host}:{target.port}/{target.database}")
    ) as store:
        yield store
