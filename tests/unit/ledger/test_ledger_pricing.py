"""The ledger is priced incrementally, restated by appending, and always adds up."""

import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.errors import UnavailableError
from fungible.ledger import pricing
from fungible.ledger.prices import PriceBook
from fungible.ledger.pricing import reprice
from fungible.ledger.sheets import load_prices
from fungible.ledger.store import Store

S = 1_000_000_000
MINUTE = 60 * S
T0 = 1_790_000_040 * S
NOW = T0 + 3600 * S

MakeAttempt = Callable[..., AttemptEvent]
MakeLease = Callable[..., LeaseEvent]
SHEET = """\
key,unit,leaf,price,currency
by-hour,hour,,3.6,USD
by-token,1M_tokens,input,0.15,USD
by-token,1M_tokens,output,0.60,USD
"""


def book_of(folder: Path, text: str = SHEET) -> PriceBook:
    path = folder / "prices.csv"
    path.write_text(text, encoding="utf-8")
    return load_prices(path)


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    return book_of(tmp_path)


class Ledger:
    """A store with a counter for tokens, and the questions that the tests ask."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._segments = 0

    def add(self, *records: AttemptEvent | LeaseEvent) -> None:
        self._segments += 1
        self.store.insert(records, f"segment-{self._segments}")

    def costs(self) -> dict[str, Decimal | None]:
        rows = self.store.query("SELECT attempt_id, cost FROM attempts ORDER BY 1").rows
        return {name.removeprefix("att_"): cost for name, cost in rows}

    def total(self) -> Decimal:
        """Attempts on leases plus idle."""
        rows = self.store.query(
            "SELECT (SELECT sum(amount) FROM costs WHERE lease_id != ''),"
            " (SELECT sum(amount) FROM idle)"
        ).rows
        return sum((Decimal(cell) for cell in rows[0]), Decimal(0))

    def idle(self) -> Decimal:
        return Decimal(self.store.query("SELECT sum(amount) FROM idle").rows[0][0])

    def lines(self) -> int:
        sql = "SELECT (SELECT count() FROM cost_lines) + (SELECT count() FROM idle_lines)"
        return int(self.store.query(sql).rows[0][0])


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


def put_together(store: Store, record: AttemptEvent, *, withdrawn: bool = False) -> None:
    """As importing puts attempts together: a newer row of the same attempt each time."""
    row = msgspec.structs.asdict(record) | {"response_id": "chatcmpl-1", "withdrawn": withdrawn}
    store.insert_rows("imported_attempts", [row])


def test_an_imported_attempt_is_restated_with_its_sums_right_at_every_moment(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt
) -> None:
    store = ledger.store
    put_together(store, attempt("1", customer="acme", out_visible=None))
    assert reprice(store, book, NOW) == 0
    assert ledger.costs() == {"1": None}
    put_together(store, attempt("1", customer="acme"))
    reprice(store, book, NOW + 10)
    assert ledger.costs() == {"1": Decimal("0.00021")}
    # Later facts: it was another customer's, began later and wrote less.
    put_together(store, attempt("1", customer="zeta", started_ns=T0 + S, out_visible=50))
    reprice(store, book, NOW + 20)
    assert ledger.costs() == {"1": Decimal("0.00018")}
    sums = "SELECT customer, sum(delta) FROM cost_lines WHERE known_ns <= {at:Int64} GROUP BY 1"
    held = {at: dict(store.query(sums, {"at": NOW + at}).rows) for at in (10, 20)}
    assert held[10] == {"acme": Decimal("0.00021")}
    assert held[20] == {"acme": 0, "zeta": Decimal("0.00018")}
    put_together(store, attempt("1", customer="zeta"), withdrawn=True)
    reprice(store, book, NOW + 30)
    assert ledger.costs() == {}
    assert store.query("SELECT sum(delta) FROM cost_lines").rows == [(0,)]
    assert reprice(store, book, NOW + 40) == 0


def test_a_line_says_its_parts_and_whose_it_is(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt
) -> None:
    ledger.add(attempt("1", feature="search", customer="acme", owner="team-a"))
    reprice(ledger.store, book, NOW)
    row = ledger.store.query("SELECT * FROM cost_lines").dicts()[0]
    assert row["parts"] == {"in_uncached": Decimal("0.00015"), "out_visible": Decimal("0.00006")}
    assert row["delta"] == row["amount"] == sum(row["parts"].values())
    assert (row["rule"], row["feature"], row["customer"]) == ("tokens", "search", "acme")
    assert (row["owner"], row["model"], row["at_ns"]) == ("team-a", "assistant", T0)


def test_tokens_are_priced_once_and_exactly(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt
) -> None:
    ledger.add(attempt("1"), attempt("2", in_uncached=1, out_visible=0))
    assert reprice(ledger.store, book, NOW) == 2
    assert ledger.costs() == {"1": Decimal("0.000210"), "2": Decimal("0.00000015")}
    assert reprice(ledger.store, book, NOW + S) == 0
    ledger.add(attempt("3"))
    assert reprice(ledger.store, book, NOW + 2 * S) == 1
    assert ledger.lines() == 3
    rows = ledger.store.query("SELECT DISTINCT currency, basis, cost_status FROM attempts").rows
    assert rows == [("USD", "contracted", "priced")]


def test_unknown_is_unpriced_and_never_zero(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt
) -> None:
    ledger.add(
        attempt("no-usage", in_uncached=None, out_visible=None),
        attempt("no-price", backend="elsewhere"),
        attempt("no-lease", backend="by-hour"),
        attempt("zero", in_uncached=0, out_visible=0),
    )
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {
        "no-usage": None,
        "no-price": None,
        "no-lease": None,
        "zero": Decimal(0),
    }
    rows = ledger.store.query("SELECT countIf(cost_status = 'unpriced') FROM attempts").rows
    assert rows == [(3,)]


def test_an_hour_is_shared_and_adds_up(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    # 3.6 an hour is 0.001 a second.
    ledger.add(
        lease(started_ns=T0 - 30 * S, seen_ns=T0 + 90 * S),
        attempt("alone", backend="by-hour", started_ns=T0, ended_ns=T0 + 10 * S),
        attempt("left", backend="by-hour", started_ns=T0 + 20 * S, ended_ns=T0 + 40 * S),
        attempt("right", backend="by-hour", started_ns=T0 + 30 * S, ended_ns=T0 + 50 * S),
        attempt("over", backend="by-hour", started_ns=T0 + 55 * S, ended_ns=T0 + 65 * S),
        attempt("outside", backend="by-hour", started_ns=T0 + 89 * S, ended_ns=T0 + 99 * S),
    )
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {
        "alone": Decimal("0.010"),
        "left": Decimal("0.015"),
        "right": Decimal("0.015"),
        "over": Decimal("0.010"),
        "outside": Decimal("0.001"),
    }
    assert ledger.idle() == Decimal("0.120") - Decimal("0.051")
    rows = ledger.store.query("SELECT DISTINCT basis FROM attempts").rows
    assert rows == [("effective",)]


def test_late_data_restates_by_appending(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(
        lease(seen_ns=T0 + 600 * S),
        attempt("first", backend="by-hour", started_ns=T0, ended_ns=T0 + 10 * S),
    )
    reprice(ledger.store, book, NOW)
    before = ledger.lines()
    assert ledger.costs() == {"first": Decimal("0.010")}
    ledger.add(attempt("late", backend="by-hour", started_ns=T0, ended_ns=T0 + 10 * S))
    # Two shares and no idle: the time was already in use.
    assert reprice(ledger.store, book, NOW + S) == 2
    assert ledger.costs() == {"first": Decimal("0.005"), "late": Decimal("0.005")}
    assert ledger.total() == Decimal("0.6")
    assert ledger.lines() == before + 2
    history = ledger.store.query(
        "SELECT amount FROM cost_lines WHERE attempt_id = 'att_first' ORDER BY known_ns"
    ).rows
    assert history == [(Decimal("0.010"),), (Decimal("0.005"),)]


def test_an_open_window_grows_and_a_closed_one_rests(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(attempt("1", backend="by-hour", started_ns=T0, ended_ns=T0 + S))
    for second in (0, 1, 30, 59, 61, 62, 200):
        ledger.add(lease(seen_ns=T0 + second * S))
        reprice(ledger.store, book, NOW)
        assert ledger.total() == Decimal("0.001") * second
    assert ledger.costs() == {"1": Decimal("0.001")}
    per_window = ledger.store.query(
        "SELECT count() FROM idle_lines GROUP BY window_start_ns ORDER BY window_start_ns"
    ).rows
    assert per_window == [(4,), (3,), (1,), (1,)]
    assert ledger.store.query("SELECT count() FROM cost_lines").rows == [(1,)]


def test_an_attempt_whose_lease_arrives_later_gets_its_price(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(attempt("1", backend="by-hour"))
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {"1": None}
    ledger.add(lease())
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {"1": Decimal("0.001")}


def test_overlapping_leases_are_both_billed(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(
        lease("one", seen_ns=T0 + 60 * S),
        lease("two", started_ns=T0 + 30 * S, seen_ns=T0 + 90 * S),
        attempt("1", backend="by-hour", started_ns=T0 + 20 * S, ended_ns=T0 + 40 * S),
    )
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {"1": Decimal("0.030")}
    assert ledger.total() == Decimal("0.120")


def test_a_new_sheet_restates_everything_and_keeps_history(
    ledger: Ledger, book: PriceBook, tmp_path: Path, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(lease(), attempt("h", backend="by-hour"), attempt("t"), attempt("x", backend="new"))
    reprice(ledger.store, book, NOW)
    first = ledger.lines()
    changed = """\
key,unit,leaf,price,currency,valid_from
by-hour,1M_tokens,input,1.00,USD,
by-hour,1M_tokens,output,1.00,USD,
by-token,1M_tokens,input,0.15,USD,2099-01-01
new,1M_tokens,input,0.30,USD,
new,1M_tokens,output,0.30,USD,
"""
    assert reprice(ledger.store, book_of(tmp_path, changed), NOW) > 0
    assert ledger.costs() == {"h": Decimal("0.0011"), "t": None, "x": Decimal("0.00033")}
    assert ledger.idle() == 0
    assert ledger.lines() > first
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {"h": Decimal("0.001"), "t": Decimal("0.00021"), "x": None}
    assert ledger.total() == Decimal("0.060")
    # Lines that only moved within the sheet say nothing new.
    moved = book_of(tmp_path, SHEET.replace("by-hour", "unused,hour,,1,USD\nby-hour", 1))
    assert reprice(ledger.store, moved, NOW) == 0


def test_a_price_change_inside_a_lease(
    ledger: Ledger, tmp_path: Path, attempt: MakeAttempt, lease: MakeLease
) -> None:
    sheet = """\
key,unit,leaf,price,currency,valid_from,valid_to
by-hour,hour,,3.6,USD,,2026-09-21T14:14:30
by-hour,hour,,7.2,USD,2026-09-21T14:14:30,
"""
    change = T0 + 30 * S
    ledger.add(
        lease(seen_ns=T0 + 60 * S),
        attempt("1", backend="by-hour", started_ns=change - S, ended_ns=change + S),
    )
    reprice(ledger.store, book_of(tmp_path, sheet), NOW)
    assert ledger.costs() == {"1": Decimal("0.003")}
    assert ledger.total() == Decimal("0.030") + Decimal("0.060")


def test_no_sheet_says_nothing(ledger: Ledger, book: PriceBook, attempt: MakeAttempt) -> None:
    ledger.add(attempt("1"))
    reprice(ledger.store, book, NOW)
    assert reprice(ledger.store, PriceBook(), NOW) == 0
    assert ledger.costs() == {"1": Decimal("0.00021")}


def test_a_clock_that_went_back_hides_no_attempt(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt
) -> None:
    ledger.add(attempt("1"))
    reprice(ledger.store, book, NOW)
    old = attempt("2")
    row = {name: getattr(old, name) for name in old.__struct_fields__} | {"ingested_ns": 5}
    ledger.store.insert_rows("attempt_events", [row])
    reprice(ledger.store, book, NOW - MINUTE)
    assert ledger.costs()["2"] == Decimal("0.00021")


def test_a_call_cut_short_is_made_good(
    ledger: Ledger,
    book: PriceBook,
    attempt: MakeAttempt,
    lease: MakeLease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger.add(lease(), attempt("1", backend="by-hour"))
    reprice(ledger.store, book, NOW)
    ledger.add(attempt("2", backend="by-hour", ended_ns=T0 + 5 * S))
    real = ledger.store.insert_rows

    def failing(table: str, rows: list[object], token: str = "") -> None:
        if table == "idle_lines":
            raise UnavailableError("killed")
        real(table, rows, token)

    with monkeypatch.context() as patched:
        patched.setattr(ledger.store, "insert_rows", failing)
        with pytest.raises(UnavailableError):
            reprice(ledger.store, book, NOW)
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {"1": Decimal("0.0005"), "2": Decimal("0.0045")}
    assert ledger.total() == Decimal("0.060")


def test_any_order_of_arrival_ends_at_the_same_amounts(
    tmp_path: Path,
    store: Store,
    attempt: MakeAttempt,
    lease: MakeLease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pricing, "CHUNK_ROWS", 7)
    monkeypatch.setattr(pricing, "RUN_MINUTES", 2)
    book = book_of(tmp_path, SHEET.replace("3.6", "0.123456789012"))
    rng = random.Random(5)
    records: list[AttemptEvent | LeaseEvent] = [
        lease("a", started_ns=T0 + 7, seen_ns=T0 + 400 * S + 13),
        lease("b", started_ns=T0 + 100 * S, seen_ns=T0 + 160 * S),
    ]
    for at in range(60):
        start = T0 + rng.randrange(420 * S)
        backend = rng.choice(["by-hour", "by-token"])
        end = start + rng.randrange(90 * S)
        records.append(attempt(f"{at:02}", backend=backend, started_ns=start, ended_ns=end))
    at_once = Ledger(store)
    at_once.add(*records)
    reprice(store, book, NOW)
    expected, total = at_once.costs(), at_once.total()
    span = Decimal(400 * S + 6) + Decimal(60 * S)
    owed = Decimal("0.123456789012") * span / Decimal(3600 * S)
    assert abs(total - owed) <= Decimal("2e-18")
    for table in ("attempt_events", "leases", "cost_lines", "idle_lines", "pricing_runs"):
        with store._client() as client:
            client.command(f"TRUNCATE TABLE {table}")
    rng.shuffle(records)
    scattered = Ledger(store)
    scattered._segments = 1000
    for begin in range(0, len(records), 9):
        scattered.add(*records[begin : begin + 9])
        reprice(store, book, NOW + begin)
    assert scattered.costs() == expected
    assert scattered.total() == total
