"""Billed = priced + known gaps + unexplained, by issuer, SKU and day."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.contract.streams import InvoiceFact
from fungible.ledger.prices import FOREVER, PriceBook, PriceRow
from fungible.ledger.pricing import reprice
from fungible.ledger.rates import DAY_NS, Rate, RateBook, day_ns
from fungible.ledger.reconcile import Reconciliation, reconcile
from fungible.ledger.store import Store

DAY = date(2026, 10, 6)
START = day_ns(DAY)
NOW = START + 10 * DAY_NS
HOUR = 3600 * 10**9

MakeAttempt = Callable[..., AttemptEvent]
MakeLease = Callable[..., LeaseEvent]


def price(key: str, leaf: str, amount: str, **changes: Any) -> PriceRow:
    fields: dict[str, Any] = {
        "key": key,
        "unit": "1M_tokens" if leaf else "hour",
        "leaf": leaf,
        "price": Decimal(amount),
        "currency": "USD",
        "from_ns": 0,
        "to_ns": FOREVER,
        "issuer": "OpenAI",
        "sku": f"gpt-{leaf}" if leaf else "machine",
    }
    return PriceRow(**(fields | changes))


BOOK = PriceBook(
    (
        price("by-token", "input", "1"),
        price("by-token", "output", "10"),
        price("by-hour", "", "2", issuer="Fleet"),
    )
)
# One attempt of the fixture costs 0.001 in and 0.001 out.


def bill(sku: str, amount: str, **changes: Any) -> InvoiceFact:
    fields: dict[str, Any] = {
        "issuer": "OpenAI",
        "invoice": "inv-1",
        "line": sku + amount + str(changes.get("start_ns")),
        "digest": sku + amount,
        "source": "test",
        "known_ns": NOW,
        "sku": sku,
        "start_ns": START,
        "end_ns": START + DAY_NS,
        "billed": Decimal(amount),
        "currency": "USD",
    }
    return InvoiceFact(**(fields | changes))


@pytest.fixture
def ledger(store: Store, attempt: MakeAttempt) -> Store:
    store.insert(
        [
            attempt("1", started_ns=START, ended_ns=START + 1),
            attempt("2", started_ns=START, ended_ns=START + 1, usage_source="estimated"),
            attempt("3", started_ns=START + DAY_NS, ended_ns=START + DAY_NS + 1),
            attempt("4", started_ns=START, ended_ns=START + 1, in_uncached=None),
        ],
        "attempts",
    )
    reprice(store, BOOK, NOW)
    return store


def compare(store: Store, *lines: InvoiceFact, **options: Any) -> Reconciliation:
    if lines:
        store.insert(list(lines), f"lines-{len(lines)}-{lines[0].digest}-{lines[0].invoice}")
    rates = options.pop("rates", RateBook())
    fields: dict[str, Any] = {"span": (0, FOREVER), "now_ns": NOW} | options
    return reconcile(store, BOOK, rates, **fields)


def test_nothing_and_no_invoice(store: Store, attempt: MakeAttempt) -> None:
    assert compare(store).outcome == "empty"
    store.insert([attempt("1", started_ns=START, ended_ns=START + 1)], "a")
    reprice(store, BOOK, NOW)
    found = compare(store)
    assert found.outcome == "inconclusive"
    (one,) = found.issuers
    assert (one.state, one.billed, one.open) == ("estimated", None, Decimal("0.002"))


def test_an_invoice_that_agrees(ledger: Store) -> None:
    found = compare(
        ledger,
        bill("gpt-input", "0.002"),
        bill("gpt-output", "0.002"),
        bill("", "-1", category="credit"),
        bill("", "0.4", category="tax"),
    )
    (one,) = found.issuers
    assert (one.billed, one.priced, one.gaps) == (
        Decimal("-0.596"),
        Decimal("0.004"),
        Decimal("-0.6"),
    )
    assert one.billed == one.priced + one.gaps + (one.unexplained or 0)
    assert (one.unexplained, one.share, one.kappa, one.within) == (0, 0, 1, True)
    assert (one.unpriced, one.open) == (1, Decimal("0.002"))
    assert {gap.kind: gap.amount for gap in found.gaps} == {"credit": -1, "tax": Decimal("0.4")}
    assert [(row.issuer, row.day, row.attempts, row.exposure) for row in found.unpriced] == [
        ("OpenAI", DAY, 1, None)
    ]
    rows = {(row.sku, row.day): row for row in found.rows}
    today = rows["gpt-input", DAY]
    assert (today.state, today.not_final, today.unexplained) == ("invoiced", Decimal("0.001"), 0)
    tomorrow = rows["gpt-input", date(2026, 10, 7)]
    assert (tomorrow.state, tomorrow.billed, tomorrow.unexplained) == ("estimated", None, None)
    assert found.outcome == "within"


def test_one_percent_decides_for_each_issuer(ledger: Store) -> None:
    found = compare(ledger, bill("gpt-input", "0.002"), bill("gpt-output", "0.00204"))
    assert (found.outcome, found.issuers[0].within) == ("within", True)
    found = compare(ledger, bill("other", "0.00004"))
    assert found.outcome == "beyond"
    assert found.issuers[0].unexplained == Decimal("0.00008")


def test_a_late_line_and_a_new_delivery_restate(ledger: Store) -> None:
    lines = [bill("gpt-input", "0.003", line="1"), bill("gpt-output", "0.002", line="2")]
    assert compare(ledger, *lines).outcome == "beyond"
    again = bill("gpt-input", "0.002", line="1", digest="z", known_ns=NOW + 1)
    found = compare(ledger, again)
    assert found.outcome == "within"
    states = {row.sku: row.state for row in found.rows if row.day == DAY}
    assert states == {"gpt-input": "restated", "gpt-output": "invoiced"}
    credit = bill("gpt-output", "-0.0005", correction=True, invoice="inv-2")
    found = compare(ledger, credit)
    row = next(row for row in found.rows if row.sku == "gpt-output" and row.day == DAY)
    assert (row.state, row.billed) == ("restated", Decimal("0.0015"))


def test_provisional_lines_fall_away_under_an_invoice(ledger: Store) -> None:
    found = compare(ledger, bill("gpt-input", "0.0019", invoice=""))
    assert next(row for row in found.rows if row.billed is not None).state == "provisional"
    found = compare(ledger, bill("gpt-input", "0.002"))
    row = next(row for row in found.rows if row.billed is not None)
    assert (row.state, row.billed) == ("invoiced", Decimal("0.002"))
    later = compare(ledger, now_ns=NOW + 40 * DAY_NS)
    assert next(row for row in later.rows if row.billed is not None).state == "closed"


def test_a_sku_that_is_billed_by_the_month_is_compared_over_it(ledger: Store) -> None:
    month = {"start_ns": START - 5 * DAY_NS, "end_ns": START + 26 * DAY_NS}
    found = compare(
        ledger, bill("gpt-input", "0.003", **month), bill("gpt-output", "0.003", **month)
    )
    assert [(row.days, row.priced, row.unexplained) for row in found.rows] == [
        (31, Decimal("0.003"), 0)
    ] * 2
    assert found.outcome == "within"


def test_another_currency_by_the_rate_of_the_day(ledger: Store) -> None:
    line = bill("gpt-input", "0.001", currency="EUR")
    found = compare(ledger, line)
    assert found.outcome == "inconclusive"
    assert found.problems == ["OpenAI gpt-input 2026-10-06: no exchange rate from EUR to USD"]
    rates = RateBook([Rate(base="EUR", quote="USD", day=DAY, rate=Decimal(2))])
    found = compare(ledger, rates=rates)
    assert next(row for row in found.rows if row.billed is not None).billed == Decimal("0.002")


def test_a_machine_is_compared_busy_and_idle(
    store: Store, attempt: MakeAttempt, lease: MakeLease
) -> None:
    busy = attempt("1", backend="by-hour", started_ns=START + 5, ended_ns=START + HOUR // 3)
    store.insert([busy, lease(started_ns=START, seen_ns=START + HOUR)], "lease")
    reprice(store, BOOK, NOW)
    found = compare(store, bill("machine", "2", issuer="Fleet"))
    (row,) = found.rows
    assert (row.issuer, row.basis, row.priced, row.unexplained) == ("Fleet", "effective", 2, 0)


def test_a_span_takes_its_own_days(ledger: Store) -> None:
    found = compare(ledger, span=(START, START + DAY_NS))
    assert {row.day for row in found.rows} == {DAY}
