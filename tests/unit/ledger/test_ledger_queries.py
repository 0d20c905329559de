"""Reports add up, show what is unattributed or unpriced, and explain themselves."""

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from fungible.contract.events import AttemptEvent, EvalItemEvent, LeaseEvent
from fungible.errors import InputError
from fungible.ledger.explain import explain
from fungible.ledger.prices import PriceBook
from fungible.ledger.pricing import reprice
from fungible.ledger.queries import UNATTRIBUTED, cost_report, net_cost, ratio
from fungible.ledger.sheets import load_prices
from fungible.ledger.store import Store

S = 1_000_000_000
T0 = 1_790_000_040 * S
SHEET = """\
key,unit,leaf,price,currency
by-hour,hour,,3.6,USD
by-token,1M_tokens,input,1,USD
by-token,1M_tokens,output,10,USD
"""
MakeAttempt = Callable[..., AttemptEvent]
MakeLease = Callable[..., LeaseEvent]


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    path = tmp_path / "prices.csv"
    path.write_text(SHEET, encoding="utf-8")
    return load_prices(path)


def item(backend: str, score: float | None, attempt_id: str = "") -> EvalItemEvent:
    return EvalItemEvent(
        run_id="run-1",
        suite="everyday",
        suite_hash="h",
        item_id=attempt_id,
        cluster="",
        backend=backend,
        attempt_id=attempt_id,
        score=score,
        output_hash="",
        output_tokens=1,
        finish_reason="stop",
        at_ns=T0,
    )


@pytest.fixture
def priced(store: Store, book: PriceBook, attempt: MakeAttempt, lease: MakeLease) -> Store:
    # One of these costs 1000 × 1 + 100 × 10 per million = 0.002.
    store.insert(
        [
            attempt("1", customer="acme", feature="chat"),
            attempt("2", customer="acme", attempt_no=0),
            attempt("2b", request_id="req_2", attempt_no=1, customer="acme"),
            attempt("3"),
            attempt("4", backend="by-hour", customer="globex"),
            attempt("5", backend="elsewhere", customer="globex", in_uncached=7),
            attempt("6", kind="eval", run_id="run-1"),
            attempt("7", kind="eval", run_id="run-1", in_uncached=3000),
            attempt("8", kind="eval", run_id="run-1", backend="elsewhere"),
            lease(),
            item("by-token", 1.0, "att_6"),
            item("by-token", 0.5, "att_7"),
            item("elsewhere", 1.0, "att_8"),
            item("down", None),
        ],
        "s",
    )
    reprice(store, book, T0)
    return store


def test_a_report_by_customer(priced: Store) -> None:
    report = cost_report(priced, "customer")
    rows = {row.name: row for row in report.rows}
    assert set(rows) == {"acme", "globex", UNATTRIBUTED}
    acme = rows["acme"]
    assert (acme.requests, acme.attempts, acme.unpriced) == (2, 3, 0)
    assert (acme.input_tokens, acme.output_tokens) == (3000, 300)
    assert acme.cost == Decimal("0.006")
    assert acme.per_request_mean == Decimal("0.003")
    assert acme.per_request_p99 == Decimal("0.004")
    assert acme.per_million_tokens == ratio(Decimal("6000"), 3300)
    globex = rows["globex"]
    assert (globex.attempts, globex.unpriced, globex.cost) == (2, 1, Decimal("0.001"))
    # Tokens of an unpriced attempt don't make the priced ones look cheap.
    assert globex.per_million_tokens == ratio(Decimal("1000"), 1100)
    assert rows[UNATTRIBUTED].cost == Decimal("0.002")
    (idle,) = report.idle
    assert (idle.backend, idle.cost) == ("by-hour", Decimal("0.059"))
    assert (idle.kind, idle.owner) == ("stranded", "platform")
    assert report.total == Decimal("0.006") + Decimal("0.001") + Decimal("0.002") + idle.cost
    assert (report.unpriced, report.currency) == (1, "USD")


def test_kind_since_and_every_dimension(priced: Store) -> None:
    assert sum(row.attempts for row in cost_report(priced, "model").rows) == 6
    everything = cost_report(priced, "backend", kind="all")
    assert {row.name: row.attempts for row in everything.rows} == {
        "by-token": 6,
        "by-hour": 1,
        "elsewhere": 2,
    }
    nowhere = next(row for row in everything.rows if row.name == "elsewhere")
    assert (nowhere.cost, nowhere.per_million_tokens, nowhere.per_request_p50) == (None, None, None)
    later = cost_report(priced, "owner", since_ns=T0 + 3600 * S)
    assert (later.rows, later.idle, later.total) == ([], [], Decimal(0))
    assert [row.name for row in cost_report(priced, "feature").rows] == [UNATTRIBUTED, "chat"]


def test_an_empty_ledger_has_an_empty_report(store: Store) -> None:
    report = cost_report(store, "model")
    assert (report.rows, report.idle, report.total, report.currency) == ([], [], Decimal(0), "")
    assert net_cost(store, ["run-1"]) == []


def test_net_cost_per_accepted_answer(priced: Store) -> None:
    rows = {row.backend: row for row in net_cost(priced, ["run-1", "other"])}
    good = rows["by-token"]
    assert (good.items, good.attempts, good.tokens) == (2, 2, 4200)
    assert (good.accepted, good.cost) == (Decimal("1.5"), Decimal("0.006"))
    assert good.net_cost == Decimal("0.004")
    assert good.per_million_tokens == ratio(Decimal(6000), 4200)
    assert rows["elsewhere"].net_cost is None  # unpriced must not look cheap
    assert rows["elsewhere"].unpriced == 1
    assert (rows["down"].accepted, rows["down"].net_cost) == (Decimal(0), None)


def test_a_request_is_explained(priced: Store, book: PriceBook) -> None:
    why = explain(priced, book, "req_2")
    assert [attempt.attempt_no for attempt in why.attempts] == [0, 1]
    assert (why.cost, why.unpriced) == (Decimal("0.004"), 0)
    first = why.attempts[0]
    assert first.usage["in_uncached"] == 1000
    assert [price.where for price in first.prices] == ["prices.csv:3", "prices.csv:4"]
    assert "tokens of each leaf" in first.rule
    (shared,) = explain(priced, book, "req_4").attempts
    assert [(line.lease_id, line.amount, line.current) for line in shared.lines] == [
        ("lease", Decimal("0.001"), True)
    ]
    assert "shared equally" in shared.rule
    (unpriced,) = explain(priced, book, "req_5").attempts
    assert (unpriced.cost, unpriced.lines) == (None, [])
    assert "unknown is not zero" in unpriced.rule
    with pytest.raises(InputError, match="no request 'nosuch'"):
        explain(priced, book, "nosuch")


def test_superseded_lines_stay_visible(
    priced: Store, book: PriceBook, attempt: MakeAttempt
) -> None:
    priced.insert([attempt("late", backend="by-hour")], "late")
    reprice(priced, book, T0)
    (shared,) = explain(priced, book, "req_4").attempts
    assert [(line.amount, line.current) for line in shared.lines] == [
        (Decimal("0.001"), False),
        (Decimal("0.0005"), True),
    ]


def test_a_report_as_it_was_known_then_is_the_same_report(
    priced: Store, tmp_path: Path, attempt: MakeAttempt
) -> None:
    imported = msgspec.structs.asdict(attempt("9", customer="acme")) | {"response_id": "r"}
    priced.insert_rows("imported_attempts", [imported])
    sheet = tmp_path / "prices.csv"
    reprice(priced, load_prices(sheet), T0 + S)
    questions = [("customer", "serve"), ("backend", "all"), ("feature", "all")]

    def ask(**options: int) -> bytes:
        return msgspec.json.encode(
            [cost_report(priced, by, kind=kind, **options) for by, kind in questions]  # type: ignore[arg-type]
        )

    then = time.time_ns()
    before = ask()
    assert ask(known_ns=then) == before
    # Later: another price, a late attempt, and a fact that restates what was imported.
    sheet.write_text(SHEET.replace(",1,", ",3,").replace(",3.6,", ",7.2,"))
    priced.insert([attempt("late", customer="acme")], "late")
    priced.insert_rows("imported_attempts", [imported | {"customer": "zeta", "in_uncached": 5}])
    assert reprice(priced, load_prices(sheet), time.time_ns()) > 0
    assert ask() != before
    assert ask(known_ns=then) == before
    assert ask(known_ns=time.time_ns()) == ask()
    assert cost_report(priced, "model", until_ns=T0).rows == []
