"""The ledger shares leases by engine steps, restates by appending, and always adds up."""

import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fungible.contract.events import AttemptEvent, LeaseEvent, Record
from fungible.contract.steps import ClassWeightsEvent, Step, StepsEvent
from fungible.errors import UnavailableError
from fungible.ledger import pricing
from fungible.ledger.explain import explain
from fungible.ledger.prices import IdlePolicy, PriceBook
from fungible.ledger.pricing import reprice
from fungible.ledger.queries import cost_report
from fungible.ledger.sheets import load_prices
from fungible.ledger.store import Store

S = 1_000_000_000
MINUTE = 60 * S
HOUR = 60 * MINUTE
T0 = 1_790_000_040 * S
NOW = T0 + 24 * HOUR

MakeAttempt = Callable[..., AttemptEvent]
MakeLease = Callable[..., LeaseEvent]


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    path = tmp_path / "prices.csv"
    path.write_text("key,unit,leaf,price,currency\nby-hour,hour,,3.6,USD\n", encoding="utf-8")
    return load_prices(path)


class Ledger:
    """A store, what was put into it, and the questions that the tests ask."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._segments = 0

    def add(self, *records: Record) -> None:
        self._segments += 1
        self.store.insert(records, f"segment-{self._segments}-{id(self)}")

    def costs(self) -> dict[str, Decimal | None]:
        rows = self.store.query("SELECT attempt_id, cost FROM attempts ORDER BY 1").rows
        return {name.removeprefix("att_"): cost for name, cost in rows}

    def rules(self) -> dict[str, str]:
        rows = self.store.query("SELECT attempt_id, any(rule) FROM costs GROUP BY 1").rows
        return {name.removeprefix("att_"): rule for name, rule in rows}

    def idle(self) -> dict[tuple[str, str], Decimal]:
        rows = self.store.query(
            "SELECT class, owner, sum(amount) AS a FROM idle GROUP BY class, owner HAVING a != 0"
        ).rows
        return {(kind, owner): amount for kind, owner, amount in rows}

    def total(self) -> Decimal:
        rows = self.store.query(
            "SELECT (SELECT sum(amount) FROM costs), (SELECT sum(amount) FROM idle),"
            " (SELECT sum(delta) FROM cost_lines), (SELECT sum(delta) FROM idle_lines)"
        ).rows[0]
        assert rows[:2] == rows[2:]
        return Decimal(rows[0] + rows[1])


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


def steps(*given: tuple[int, int, dict[str, tuple[int, int, int]]], run: str = "r") -> StepsEvent:
    """Steps as (start after T0, duration, request -> prefill, decode, kv), numbered by start."""
    ids = sorted({name for _, _, requests in given for name in requests})
    made = []
    for start, duration, requests in given:
        names = sorted(requests)
        parts = [[requests[name][at] for name in names] for at in range(3)]
        places = [ids.index(name) for name in names]
        made.append(Step(start // 1000, T0 + start, duration, places, *parts))
    return StepsEvent(backend="by-hour", run=run, ids=ids, steps=made)


def exact_steps(count: int, every: int = S, first: int = 0) -> StepsEvent:
    """Steps that take 1 ms + 1 ms a prompt token, for `a` with 3 of them and `b` with none."""
    both = {"att_a": (3, 0, 0), "att_b": (0, 1, 0)}
    one = {"att_b": (0, 1, 0)}
    return steps(
        *[
            (first + at * every, (4 if at % 2 else 1) * S // 1000, both if at % 2 else one)
            for at in range(count)
        ]
    )


def test_steps_decide_once_they_are_there_and_their_fit_once_there_are_enough(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(
        lease(seen_ns=T0 + 200 * S),
        attempt("a", backend="by-hour", started_ns=T0, ended_ns=T0 + 30 * S),
        attempt("b", backend="by-hour", started_ns=T0, ended_ns=T0 + 30 * S),
    )
    reprice(ledger.store, book, NOW)
    assert ledger.costs() == {"a": Decimal("0.015"), "b": Decimal("0.015")}
    assert ledger.rules() == {"a": "time", "b": "time"}
    # Ten steps of 4 ms shared by two, ten of 1 ms: too few for a fit, so equal shares.
    ledger.add(exact_steps(20))
    reprice(ledger.store, book, NOW + 10)
    assert ledger.costs() == {"a": Decimal("0.000020"), "b": Decimal("0.000030")}
    assert ledger.rules() == {"a": "steps_equal", "b": "steps_equal"}
    # 64 are enough. Of a step of 4 ms, `a` has its own 3 and half of the fixed 1.
    ledger.add(exact_steps(44, first=20 * S))
    reprice(ledger.store, book, NOW + 20)
    assert ledger.costs() == {"a": Decimal("0.000112"), "b": Decimal("0.000048")}
    assert ledger.rules() == {"a": "steps", "b": "steps"}
    fit = ledger.store.query("SELECT step_fs, prefill_fs, decode_fs, kv_fs, r2 FROM step_fits").rows
    assert fit == [(10**12, 10**12, 0, 0, 1.0)]
    assert ledger.store.query("SELECT DISTINCT fit FROM costs").rows == [("r/64",)]
    assert ledger.total() == Decimal("0.2")
    assert reprice(ledger.store, book, NOW + 30) == 0
    history = ledger.store.query(
        "SELECT rule FROM cost_lines WHERE attempt_id = 'att_a' AND window_start_ns = {t:Int64}"
        " ORDER BY known_ns",
        {"t": T0},
    ).rows
    assert history == [("time",), ("steps_equal",), ("steps",)]


def test_the_same_steps_again_say_nothing_new(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(lease(), attempt("a", backend="by-hour"), attempt("b", backend="by-hour"))
    ledger.add(exact_steps(60))
    reprice(ledger.store, book, NOW)
    before = ledger.costs()
    ledger.add(exact_steps(60))
    assert reprice(ledger.store, book, NOW + 10) == 0
    assert ledger.costs() == before


def test_requests_that_nobody_knows_are_their_own_line_until_somebody_does(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    ledger.add(lease(), exact_steps(2))
    reprice(ledger.store, book, NOW)
    unattributed = ("unattributed", "platform")
    assert ledger.idle()[unattributed] == Decimal("0.000005")
    # Their attempts arrive after them, one of them by a clock that is five minutes behind.
    late = T0 - 300 * S
    ledger.add(
        attempt("a", backend="by-hour", started_ns=late, ended_ns=late + S),
        attempt("elsewhere", attempt_id="att_b", backend="other", started_ns=T0, ended_ns=T0 + S),
    )
    reprice(ledger.store, book, NOW + 10)
    assert ledger.costs()["a"] == Decimal("0.000002")
    assert ledger.idle()[unattributed] == Decimal("0.000003")
    assert ledger.total() == Decimal("0.060")


def test_steps_straddle_windows_and_a_price_change(
    ledger: Ledger, tmp_path: Path, attempt: MakeAttempt, lease: MakeLease
) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(
        "key,unit,leaf,price,currency,valid_from,valid_to\n"
        "by-hour,hour,,3.6,USD,,2026-09-21T14:14:30\n"
        "by-hour,hour,,7.2,USD,2026-09-21T14:14:30,\n",
        encoding="utf-8",
    )
    ledger.add(
        lease(seen_ns=T0 + 120 * S),
        attempt("a", backend="by-hour", started_ns=T0, ended_ns=T0 + 100 * S),
        steps((29 * S, 2 * S, {"att_a": (1, 0, 1)}), (59 * S, 3 * S, {"att_a": (0, 1, 2)})),
    )
    reprice(ledger.store, load_prices(path), NOW)
    assert ledger.costs() == {"a": Decimal("0.001") + Decimal("0.002") * 4}
    assert ledger.total() == Decimal("0.030") + Decimal("0.180")


def test_a_call_cut_short_after_its_fit_is_made_good(
    ledger: Ledger,
    book: PriceBook,
    attempt: MakeAttempt,
    lease: MakeLease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    span = {"backend": "by-hour", "started_ns": T0, "ended_ns": T0 + 30 * S}
    ledger.add(lease(seen_ns=T0 + 200 * S), attempt("a", **span), attempt("b", **span))
    ledger.add(exact_steps(50))
    reprice(ledger.store, book, NOW)
    ledger.add(exact_steps(14, first=80 * S))
    real = ledger.store.insert_rows

    def failing(table: str, rows: list[object], token: str = "") -> None:
        if table == "cost_lines":
            raise UnavailableError("killed")
        real(table, rows, token)

    with monkeypatch.context() as patched:
        patched.setattr(ledger.store, "insert_rows", failing)
        with pytest.raises(UnavailableError):
            reprice(ledger.store, book, NOW + 10)
    assert ledger.store.query("SELECT count() FROM step_fits").rows == [(1,)]
    reprice(ledger.store, book, NOW + 20)
    assert ledger.costs() == {"a": Decimal("0.000112"), "b": Decimal("0.000048")}
    assert set(ledger.rules().values()) == {"steps"}


def test_token_classes_share_where_there_are_no_steps(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    span = {"backend": "by-hour", "started_ns": T0, "ended_ns": T0 + 10 * S}
    ledger.add(
        lease(),
        attempt("a", **span, in_uncached=1000, out_visible=100),
        attempt("b", **span, in_uncached=500, in_cache_read=500, out_visible=100),
    )
    reprice(ledger.store, book, NOW)
    assert ledger.rules() == {"a": "time", "b": "time"}
    weights = {"in_uncached": 10, "in_cache_read": 2, "out": 100, "source": "x", "r2": 0.9}
    ledger.add(ClassWeightsEvent(backend="by-hour", **weights, samples=9, at_ns=T0))
    reprice(ledger.store, book, NOW + 10)
    # 20000 against 16000 parts of ten seconds.
    assert ledger.costs() == {
        "a": Decimal("0.005555555555555556"),
        "b": Decimal("0.004444444444444444"),
    }
    assert ledger.rules() == {"a": "class", "b": "class"}
    assert ledger.total() == Decimal("0.060")
    ledger.add(attempt("c", **span, out_visible=None))
    reprice(ledger.store, book, NOW + 20)
    assert set(ledger.rules().values()) == {"time"}, "an unknown count is not zero"
    assert ledger.total() == Decimal("0.060")


def test_idle_time_has_a_class_and_an_owner(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    policy = IdlePolicy(reserved_by="team-a", reserved_share=0.5, headroom=0.1)
    book = PriceBook(book.rows, idle={"by-hour": policy})
    hour = T0 // HOUR * HOUR + HOUR
    ledger.add(
        lease(started_ns=hour, seen_ns=hour + 61 * MINUTE),
        # The peak of the first hour: 18 and 6 seconds of its minute 7.
        attempt("a", backend="by-hour", owner="team-a", started_ns=hour + 7 * MINUTE,
                ended_ns=hour + 7 * MINUTE + 18 * S),
        attempt("b", backend="by-hour", owner="team-b", started_ns=hour + 7 * MINUTE + 18 * S,
                ended_ns=hour + 7 * MINUTE + 24 * S),
        attempt("c", backend="by-hour", owner="team-b", started_ns=hour + 60 * MINUTE,
                ended_ns=hour + 60 * MINUTE + 12 * S),
    )  # fmt: skip
    reprice(ledger.store, book, NOW)
    rows = ledger.store.query(
        "SELECT class, owner, amount FROM idle WHERE window_start_ns = {t:Int64} ORDER BY 1, 2",
        {"t": hour + 60 * MINUTE},
    ).rows
    # 48 of 60 seconds were idle: 30 reserved, 6 kept free (by 3 to 1), 12 left over.
    assert rows == [
        ("headroom", "team-a", Decimal("0.0045")),
        ("headroom", "team-b", Decimal("0.0015")),
        ("reserved_unused", "team-a", Decimal("0.030")),
        ("stranded", "platform", Decimal("0.012")),
    ]
    first = ledger.store.query(
        "SELECT class, owner, amount FROM idle WHERE window_start_ns = {t:Int64} ORDER BY 1, 2",
        {"t": hour + 7 * MINUTE},
    ).rows
    # 36 idle; of the 30 reserved 18 were used. There was no hour before to know a peak from.
    assert first == [
        ("headroom", "platform", Decimal("0.006")),
        ("reserved_unused", "team-a", Decimal("0.012")),
        ("stranded", "platform", Decimal("0.018")),
    ]
    assert ledger.total() == Decimal("3.66")
    # A late attempt makes another peak, and moves the next hour's headroom.
    ledger.add(attempt("d", backend="by-hour", owner="team-c", started_ns=hour,
                       ended_ns=hour + 60 * S))  # fmt: skip
    reprice(ledger.store, book, NOW + 10)
    assert ledger.idle()["headroom", "team-c"] == Decimal("0.006")
    assert ledger.total() == Decimal("3.66")


def world(rng: random.Random, attempt: MakeAttempt, lease: MakeLease) -> list[Record]:
    """Leases, attempts and steps of seven minutes, some of the steps of strangers or nobody."""
    start = T0 // HOUR * HOUR + 58 * MINUTE  # so that the hour changes in between
    records: list[Record] = [
        lease("a", started_ns=start + 7, seen_ns=start + 400 * S + 13),
        lease("b", started_ns=start + 100 * S, seen_ns=start + 160 * S),
    ]
    names = [f"{at:02}" for at in range(40)]
    for name in names:
        begin = start + rng.randrange(400 * S)
        end = begin + rng.randrange(30 * S)
        owner = f"team-{rng.randrange(3)}"
        records.append(
            attempt(name, backend="by-hour", started_ns=begin, ended_ns=end, owner=owner)
        )
    at = start - T0
    batches: list[list[Any]] = [[] for _ in range(12)]
    for _ in range(150):
        who = rng.sample(names, rng.randrange(4))
        content = {
            rng.choice([f"att_{name}", f"att_{name}-1", "probe"]): (
                rng.randrange(100), rng.randrange(2), rng.randrange(300)
            )
            for name in who
        }  # fmt: skip
        took = S // 100 + sum(part[0] for part in content.values()) * S // 500
        rng.choice(batches).append((at, took + rng.randrange(S // 100), content))
        at += took + rng.randrange(4 * S)
    return records + [steps(*batch) for batch in batches if batch]


def test_any_order_of_arrival_ends_at_the_same_amounts(
    store: Store, attempt: MakeAttempt, lease: MakeLease, monkeypatch: pytest.MonkeyPatch,
    book: PriceBook,
) -> None:  # fmt: skip
    monkeypatch.setattr(pricing, "RUN_MINUTES", 2)
    rng = random.Random(11)
    policy = IdlePolicy(reserved_by="team-1", reserved_share=0.3, headroom=0.2)
    book = PriceBook(book.rows, idle={"by-hour": policy})
    records = world(rng, attempt, lease)
    at_once = Ledger(store)
    at_once.add(*records)
    reprice(store, book, NOW)
    expected, idle, total = at_once.costs(), at_once.idle(), at_once.total()
    span = Decimal(400 * S + 6 + 60 * S) / S
    assert abs(total - Decimal("0.001") * span) <= Decimal("2e-18")
    assert {"steps", "time"} <= {
        row[0] for row in store.query("SELECT DISTINCT rule FROM costs").rows
    }
    tables = ("attempt_events", "leases", "cost_lines", "idle_lines", "pricing_runs",
              "engine_steps", "step_fits")  # fmt: skip
    for table in tables:
        with store._client() as client:
            client.command(f"TRUNCATE TABLE {table}")
    rng.shuffle(records)
    scattered = Ledger(store)
    for begin in range(0, len(records), 9):
        scattered.add(*records[begin : begin + 9])
        reprice(store, book, NOW + begin)
        scattered.add(*records[begin : begin + 9][-1:])  # some come twice
    reprice(store, book, NOW + 1000)
    steps_only = [one for one in records if isinstance(one, StepsEvent)]
    scattered.add(*steps_only)
    reprice(store, book, NOW + 2000)
    assert scattered.costs() == expected
    assert scattered.idle() == idle
    assert scattered.total() == total


def test_steps_and_the_cache_are_explained(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    span = {"backend": "by-hour", "started_ns": T0, "ended_ns": T0 + 30 * S}
    ledger.add(
        lease(seen_ns=T0 + 200 * S),
        attempt("a", **span, in_cache_read=50),
        attempt("b", **span),
        exact_steps(64),
    )
    reprice(ledger.store, book, NOW)
    (why,) = explain(ledger.store, book, "req_a").attempts
    assert why.steps is not None
    assert (why.steps.steps, why.steps.prefill, why.steps.decode) == (32, 96, 0)
    assert (why.steps.seconds, why.steps.share_seconds) == (Decimal("0.128"), Decimal("0.112"))
    (fit,) = why.steps.fits
    assert (fit.run, fit.accepted, fit.fit.samples, fit.fit.r2) == ("r", True, 64, 1.0)
    assert {(line.rule, line.fit) for line in why.lines} == {("steps", "r/64")}
    # 0.001 a second.
    assert why.cost == why.steps.share_seconds / 1000
    assert why.cache_credit is not None
    assert (why.cache_credit.tokens, why.cache_credit.seconds) == (50, Decimal("0.05"))
    assert "Shapley" in why.rule
    (other,) = explain(ledger.store, book, "req_b").attempts
    assert other.steps is not None
    assert (other.steps.steps, other.steps.share_seconds) == (64, Decimal("0.048"))
    assert other.cache_credit is None


def test_a_report_shows_idle_time_by_class_and_owner(
    ledger: Ledger, book: PriceBook, attempt: MakeAttempt, lease: MakeLease
) -> None:
    policy = IdlePolicy(reserved_by="team-a", reserved_share=0.5)
    ledger.add(lease(), attempt("1", backend="by-hour"), exact_steps(2))
    reprice(ledger.store, PriceBook(book.rows, idle={"by-hour": policy}), NOW)
    report = cost_report(ledger.store, "backend")
    assert [(row.kind, row.owner, row.cost) for row in report.idle] == [
        ("reserved_unused", "team-a", Decimal("0.030")),
        ("stranded", "platform", Decimal("0.029995")),
        ("unattributed", "platform", Decimal("0.000005")),
    ]
    assert report.total == Decimal("0.060")
