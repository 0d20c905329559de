"""What is imported about calls of our own gateway makes no second attempt of them."""

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fungible.contract.events import AttemptEvent, Record
from fungible.ledger.pricing import reprice
from fungible.ledger.sheets import load_prices
from fungible.ledger.stitch import stitch
from fungible.ledger.store import Store
from support.call_facts import T0, USED, Ledger, S, response, span

Make = Callable[..., AttemptEvent]
REQUEST, ATTEMPT = f"req_{1:032x}", f"att_{2:032x}"
TRACE, SPAN = f"{3:032x}", f"{4:016x}"
KNOWN: dict[str, Any] = {
    "attempt_id": ATTEMPT,
    "request_id": REQUEST,
    "response_id": "r1",
    "trace_id": TRACE,
    "span_id": SPAN,
}
ABOUT: dict[str, Record] = {
    "the provider's id in a body": response("r1"),
    "the provider's id in a span": span("s1", response_id="r1", rank=3, **USED),
    "an id that the gateway translated": response(f"chatcmpl-{REQUEST}"),
    "an id that the upstream made of ours": span("s1", request_id=f"chatcmpl-{ATTEMPT}-0"),
    "the request's id in an envelope": response("e1", request_id=REQUEST),
    "the span that called": span(SPAN, trace_id=TRACE, rank=3, **USED),
}


def made(ledger: Ledger) -> list[str]:
    return [row["attempt_id"] for row in ledger.attempts()]


def links(store: Store) -> list[tuple[Any, ...]]:
    return store.query("SELECT stream, attempt_id FROM own_call_facts FINAL").rows


@pytest.mark.parametrize("about", ABOUT.values(), ids=ABOUT)
@pytest.mark.parametrize("fact_first", [False, True], ids=["after it", "before it"])
def test_a_fact_about_an_attempt_is_linked_to_it(
    store: Store, attempt: Make, about: Record, fact_first: bool
) -> None:
    ledger = Ledger(store)
    both = [attempt("1", **KNOWN), about]
    if fact_first:
        both.reverse()
    for record in both:
        ledger.ship(record)
    assert made(ledger) == [ATTEMPT]
    stream = "traces" if type(about).__name__ == "SpanFact" else "responses"
    assert links(store) == [(stream, ATTEMPT)]
    assert stitch(store, time.time_ns()) == 0


def test_what_is_about_other_calls_stays_an_attempt(store: Store, attempt: Make) -> None:
    ledger = Ledger(store)
    ledger.ship(attempt("1", **KNOWN))
    ledger.ship(
        response("r2"),
        span("direct", trace_id=TRACE, parent_span_id="agent", response_id="r3"),
        span(SPAN, trace_id=f"{9:032x}"),
        response(f"chatcmpl-req_{7:032x}"),  # of a gateway whose attempts are not in here
    )
    assert len(made(ledger)) == 5
    assert links(store) == []


def test_everything_known_about_the_call_goes_with_it(store: Store, attempt: Make) -> None:
    ledger = Ledger(store)
    ledger.ship(attempt("1", **KNOWN))
    ledger.ship(
        span("framework", rank=3, **USED),
        span("sdk", parent_span_id="framework", response_id="r1"),
        response("", response_id="", trace_id="t1", span_id="sdk", rank=3, in_uncached=1),
        span("inner", parent_span_id="sdk"),
    )
    assert made(ledger) == [ATTEMPT]
    # The operation above it is none; nor does it hide a call beside ours.
    assert len(links(store)) == 3
    ledger.ship(span("direct", parent_span_id="framework", started_ns=T0 + 3 * S))
    assert [row["span_id"] for row in ledger.attempts() if row["attempt_id"] != ATTEMPT] == [
        "direct"
    ]


def test_a_retried_request_is_linked_to_the_attempt_that_answered(
    store: Store, attempt: Make
) -> None:
    ledger = Ledger(store)
    failed = attempt("0", request_id=REQUEST, status="error", ended_ns=T0 + 9 * S)
    ledger.ship(failed, attempt("1", **KNOWN, attempt_no=1))
    ledger.ship(response(f"msg_{REQUEST}"))
    assert links(store) == [("responses", ATTEMPT)]
    assert len(made(ledger)) == 2


def test_nothing_is_paid_twice_once_the_attempt_is_there(
    store: Store, attempt: Make, tmp_path: Path
) -> None:
    sheet = "key,unit,leaf,price,currency\nby-token,1M_tokens,input,1,USD\n"
    (tmp_path / "p.csv").write_text(sheet + "by-token,1M_tokens,output,1,USD\n", encoding="utf-8")
    book = load_prices(tmp_path / "p.csv")

    def spent() -> list[tuple[Any, ...]]:
        reprice(store, book, time.time_ns())
        return store.query("SELECT count(), sum(cost) FROM attempts").rows

    ledger = Ledger(store)
    ledger.ship(response("r1", backend="by-token", **(USED | {"in_uncached": 1096, "rank": 4})))
    assert spent() == [(1, Decimal("0.001105"))]
    ledger.ship(attempt("1", **KNOWN, out_visible=105))
    assert spent() == [(1, Decimal("0.001105"))]
    summed = store.query("SELECT sum(amount) FROM usage_hours").rows
    assert summed == [(Decimal("0.001105"),)]
