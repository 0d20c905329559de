"""`fungible warehouse build`: unmodified dbt against a real ledger, its marts against the page.

dbt is installed from the project's lock file, once a run, unless FUNGIBLE_DBT names one.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fungible.config import Config, load_config
from fungible.contract.events import AttemptEvent, EvalItemEvent, Record
from fungible.contract.streams import InvoiceFact, RateFact
from fungible.dashboard.live import read_snapshot
from fungible.dashboard.snapshot import Snapshot
from fungible.ledger.access import open_access
from fungible.ledger.known_prices import book_as_known, rates_as_known
from fungible.ledger.prices import FOREVER
from fungible.ledger.queries import DIMENSIONS, CostReport, cost_report, net_cost
from fungible.ledger.rates import day_of
from fungible.ledger.reconcile import Reconciliation, reconcile
from fungible.ledger.store import Store, open_store
from fungible.warehouse.environment import OWN_DBT, find_dbt, find_project
from support.dashboard_events import CANDIDATE, REFERENCE, S, attempt, loop
from support.dashboard_server import SHEET, config_of

pytest.importorskip("chdb", reason="needs the ledger extra: pip install 'fungible[ledger]'")

Row = dict[str, Any]
RUN = "run_eval"
DAY = 86_400 * S
LATE = 26 * 3600 * S
MARTS = ("cost_per_token_hourly", "cost_by_feature", "cost_by_customer", "cost_by_owner")


@pytest.fixture(scope="module")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> str:
    if named := os.environ.get(OWN_DBT):
        return named
    return str(find_dbt(tmp_path_factory.mktemp("dbt"), find_project(), print))


def fungible(dbt: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fungible", *arguments],
        env=os.environ | {OWN_DBT: dbt},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def build(dbt: str, home: Path, *options: str, code: int = 0) -> Row:
    done = fungible(dbt, "warehouse", "build", "--home", str(home), "--json", *options)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    built: Row = msgspec.json.decode(done.stdout)
    failed = [node for node in built["nodes"] if node["message"]]
    assert done.returncode == code, failed
    return built


class Seen(msgspec.Struct, kw_only=True):
    """What was built, what the ledger said at that time, and what is in the marts."""

    built: Row
    snapshot: Snapshot
    reports: dict[str, CostReport]
    marts: dict[str, list[Row]]
    net: dict[str, Decimal | None]
    reconciled: Reconciliation


def evals(now: int) -> list[Record]:
    """Eight scored answers on two backends, with a failed first try of one of them."""
    records: list[Record] = []
    for number, backend in enumerate([REFERENCE, CANDIDATE] * 4):
        one = attempt(
            500_000 + number, backend=backend, ended_ns=now - 20 * S, kind="eval", run_id=RUN
        )
        records.append(one)
        records.append(
            EvalItemEvent(
                run_id=RUN,
                suite="everyday",
                suite_hash="5f",
                item_id=f"item_{number}",
                cluster="",
                backend=backend,
                attempt_id=one.attempt_id,
                score=1.0 if number % 3 else 0.25,
                output_hash="",
                output_tokens=one.out_visible,
                finish_reason="stop",
                at_ns=now,
            )
        )
    retried = {"attempt_id": "att_500000b", "request_id": "req_00500000", "attempt_no": 1}
    records.append(
        attempt(
            500_000, backend=REFERENCE, ended_ns=now - 10 * S, kind="eval", run_id=RUN, **retried
        )
    )
    return records


def invoice(now: int) -> list[Record]:
    """The late day's bill of the backend that is paid by the token, one line of it sent twice."""
    day = (now - LATE) // DAY * DAY
    lines = [
        ("1", "a", "in_uncached", "usage", "0.00001", 1),
        ("2", "a", "out_visible", "usage", "0.9", 1),
        ("2", "b", "out_visible", "usage", "0.00002", 2),
        ("3", "a", "", "tax", "0.000005", 1),
    ]
    return [
        InvoiceFact(
            issuer="int4",
            invoice="inv-1",
            line=line,
            digest=digest,
            source="test",
            known_ns=known,
            category=category,  # type: ignore[arg-type]
            sku=sku,
            start_ns=day,
            end_ns=day + DAY,
            billed=Decimal(billed),
            currency="USD",
        )
        for line, digest, sku, category, billed, known in lines
    ]


def foreign(now: int) -> list[Record]:
    """A bill in euros, and others by a cross rate, a reciprocal and no rate that is recent enough.

    Two lines of one SKU and period are converted together, and ties are rounded to even.
    """
    day = (now - LATE) // DAY * DAY
    lines = [
        ("1", "out_visible", "usage", "0.00001", "EUR"),
        ("2", "out_visible", "usage", "0.000000000000000001", "EUR"),
        ("3", "ocr", "usage", "0.000000000000000003", "EUR"),
        ("4", "", "credit", "-0.000000000000000005", "EUR"),
        ("5", "gpu", "usage", "1234567.891234567891234567", "JPY"),
        ("6", "rack", "usage", "99.999999999999999999", "CHF"),
        ("7", "old", "usage", "7", "SEK"),
    ]
    bills = [
        InvoiceFact(
            issuer="int4-eu",
            invoice="2026-10" if line == "6" else "2026-10-31" if line == "5" else "inv-eu",
            line=line,
            digest="a",
            source="test",
            known_ns=1,
            category=category,  # type: ignore[arg-type]
            sku=sku,
            start_ns=day + 3600 * S,
            end_ns=day + DAY,
            billed=Decimal(billed),
            currency=currency,
        )
        for line, sku, category, billed, currency in lines
    ]
    rates = [
        ("EUR", "USD", 3, "1.5", 1),
        ("EUR", "USD", 9, "3", 1),  # too old, and not the newest
        ("EUR", "JPY", 0, "162.123456789123456789", 1),
        ("USD", "JPY", 8, "100", 1),  # a day too old: it goes through the euro
        ("USD", "CHF", 7, "0.9", 2),
        ("USD", "CHF", 7, "0.8", 1),  # known before, and corrected since
        ("USD", "SEK", 8, "9.5", 1),
    ]
    return bills + [
        RateFact(
            base=base,
            quote=quote,
            day=day_of(day - age * DAY),
            rate=Decimal(rate),
            known_ns=known,
            source="test",
        )
        for base, quote, age, rate, known in rates
    ]


def late(now: int) -> list[AttemptEvent]:
    """Attempts from before the page's day that arrive now, of nobody's; one has no price."""
    at = now - LATE
    return [
        attempt(700_001, backend="ort-int4-naive", ended_ns=at, feature="late"),
        attempt(700_002, backend="nobody-priced-it", ended_ns=at, feature="late"),
    ]


def change(home: Path, records: list[Record], sheet: str = SHEET) -> Config:
    config = config_of(home)
    (home / "prices.csv").write_text(sheet, encoding="utf-8")
    (home / "run").mkdir(exist_ok=True)
    (home / "run" / "config.json").write_bytes(msgspec.json.encode(config))
    store = open_store(config.ledger_dsn())
    store.migrate()
    store.insert(records, f"records-{len(records)}")
    store.close()
    open_access(config).close()  # prices what is new
    return config


def contents(store: Store) -> dict[str, list[Row]]:
    tables = store.query(
        "SELECT name FROM system.tables WHERE database = 'fungible_marts' ORDER BY name"
    )
    found = {}
    for (name,) in tables.rows:
        rows = store.query(f"SELECT * FROM fungible_marts.{name} ORDER BY ALL").dicts()
        found[str(name)] = rows
    return found


def look(home: Path, now: int, built: Row) -> Seen:
    config = load_config(home / "run" / "config.json")
    store = open_store(config.ledger_dsn())
    try:
        return Seen(
            built=built,
            snapshot=read_snapshot(store, config, now),
            reports={by: cost_report(store, by, kind="all") for by in DIMENSIONS},
            marts=contents(store),
            net={row.backend: row.net_cost for row in net_cost(store, [RUN])},
            reconciled=reconcile(
                store,
                book_as_known(config, store),
                rates_as_known(store),
                span=(0, FOREVER),
                now_ns=now,
            ),
        )
    finally:
        store.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def seen(dbt: str, home: Path) -> Seen:
    now = time.time_ns()
    change(home, [*loop(now), *evals(now), *late(now), *invoice(now), *foreign(now)])
    # The models' unit tests do not depend on what the ledger holds: they run on the empty one.
    return look(home, now, build(dbt, home, "--exclude", "test_type:unit"))


def total(rows: list[Row], column: str, keep: Callable[[Row], bool] = lambda _: True) -> Decimal:
    return sum((Decimal(row[column] or 0) for row in rows if keep(row)), Decimal(0))


def test_every_node_passes(seen: Seen) -> None:
    assert {node["kind"] for node in seen.built["nodes"]} == {"model", "test"}
    assert {node["status"] for node in seen.built["nodes"]} == {"success", "pass"}
    assert seen.built["ok"]
    assert all(seen.marts[name] for name in (*MARTS, "performance_per_dollar", "cost_slo_burn"))


def test_the_marts_are_the_page_to_the_last_digit(seen: Seen) -> None:
    hourly = seen.marts["cost_per_token_hourly"]
    # The page looks back 24 hours, over midnight; what arrived late is older.
    late_hour = min(row["hour"] for row in hourly)
    recent = [row for row in hourly if row["hour"] > late_hour]
    assert len(recent) < len(hourly)
    for shown in seen.snapshot.backends:
        own = [row for row in recent if row["backend"] == shown.name]
        assert Decimal(shown.cost) == total(own, "cost", lambda row: row["kind"] != "idle")
        assert Decimal(shown.idle_cost) == total(own, "cost", lambda row: row["kind"] == "idle")
        assert shown.attempts == total(own, "attempts")
        assert shown.tokens == total(own, "input_tokens") + total(own, "output_tokens")
    totals = seen.snapshot.totals
    assert Decimal(totals.cost) == total(recent, "cost", lambda row: row["kind"] != "idle")


def test_the_marts_are_the_report_to_the_last_digit(seen: Seen) -> None:
    for by in DIMENSIONS:
        mart = f"cost_by_{by}" if by in ("feature", "customer", "owner") else MARTS[0]
        rows = [row for row in seen.marts[mart] if row["kind"] != "idle"]
        report = seen.reports[by]
        assert {row.name for row in report.rows} == {row[by] for row in rows}
        for shown in report.rows:
            own = [row for row in rows if row[by] == shown.name]
            assert (shown.cost or 0) == total(own, "cost")
            assert shown.unpriced == total(own, "unpriced_attempts")
            assert (shown.attempts, shown.input_tokens) == (
                total(own, "attempts"),
                total(own, "input_tokens"),
            )
        bill = total(seen.marts[mart], "cost")
        assert bill == report.total > 0


def test_percentiles_and_net_cost_are_the_ledgers(seen: Seen) -> None:
    for row in seen.marts["cost_per_request_hourly"]:
        assert row["cost"] is None or row["cost_p50"] <= row["cost_p99"] <= row["cost"]
    net = {row["backend"]: row["net_cost"] for row in seen.marts["net_cost_per_accepted_answer"]}
    assert net.keys() == seen.net.keys() == {REFERENCE, CANDIDATE}
    for backend, exact in seen.net.items():
        assert exact is not None
        assert 0 <= exact - net[backend] < Decimal("1e-18")


def test_the_reconciliation_is_the_ledgers(seen: Seen) -> None:
    """Tokens and a tax that were billed, hours that were not; a line sent twice counts later.

    In one currency, to the last digit. What no rate converts stays in its own, beside it.
    """
    reported = [
        row for row in seen.marts["reconciliation"] if row["currency"] == seen.reconciled.currency
    ]
    mart = {
        (row["issuer"], row["sku"], str(row["day"]), row["days"]): row
        for row in reported
        if row["category"] == "usage"
    }
    theirs = {(row.issuer, row.sku, str(row.day), row.days): row for row in seen.reconciled.rows}
    assert mart.keys() == theirs.keys()
    assert {key[1] for key in mart} >= {"hour", "in_uncached", "out_visible"}
    for key, row in theirs.items():
        other = mart[key]
        assert (other["state"], other["billed"], other["priced"], other["unexplained"]) == (
            row.state,
            row.billed,
            row.priced,
            row.unexplained,
        )
    gaps = [row for row in reported if row["category"] != "usage"]
    assert [(row["category"], row["billed"]) for row in gaps] == [
        (gap.kind, gap.amount) for gap in seen.reconciled.gaps
    ]
    assert {row["state"] for row in mart.values()} == {
        "estimated",
        "provisional",
        "invoiced",
        "restated",
    }
    euros = {sku: row["billed"] for (issuer, sku, *_), row in mart.items() if issuer == "int4-eu"}
    assert euros["out_visible"] == Decimal("0.000015000000000002")  # 1.5 units, to even
    assert euros["ocr"] == Decimal("0.000000000000000004")
    assert euros["rack"] == Decimal("111.111111111111111110")
    assert euros.keys() == {"out_visible", "ocr", "gpu", "rack"}
    (left,) = [row for row in seen.marts["reconciliation"] if row not in reported]
    assert (left["sku"], left["currency"], left["billed"]) == ("old", "SEK", Decimal(7))
    (problem,) = seen.reconciled.problems
    assert "no exchange rate from SEK to USD" in problem


def test_unpriced_and_unattributed_are_rows(seen: Seen) -> None:
    by_customer = seen.marts["cost_by_customer"]
    unpriced = [row for row in by_customer if row["basis"] == "unpriced"]
    assert [(row["customer"], row["cost"], row["attempts"]) for row in unpriced] == [
        ("(unattributed)", None, 1)
    ]
    assert {"acme", "globex", "(unattributed)", "(idle)"} == {
        row["customer"] for row in by_customer
    }


def test_changed_days_are_made_again_as_if_all_were(dbt: str, home: Path, seen: Seen) -> None:
    """A late row and a cut price: the second build is incremental, the third is not."""
    assert seen.built["ok"]
    before = total(seen.marts["cost_by_owner"], "cost")
    now = time.time_ns()
    cut = SHEET.replace("0.10,USD", "0.05,USD")
    change(home, [attempt(800_001, backend="ort-int4-naive", ended_ns=now - LATE)], cut)
    models = ("--select", "int_days int_attempts int_idle cost_by_owner cost_per_request_hourly")
    models += ("--exclude", "test_type:unit")
    some = look(home, now, build(dbt, home, *models))
    everything = look(home, now, build(dbt, home, *models, "--full-refresh"))
    for name in ("int_attempts", "cost_by_owner", "cost_per_request_hourly"):
        assert some.marts[name] == everything.marts[name]
    assert total(some.marts["cost_by_owner"], "cost") != before
    assert total(some.marts["cost_by_owner"], "cost") == some.reports["owner"].total


def test_a_failed_test_shows_its_rows_and_ends_with_1(dbt: str, home: Path, seen: Seen) -> None:
    assert seen.built["ok"]
    store = open_store(Config(home=str(home)).ledger_dsn())
    rows = store.query("SELECT * FROM cost_lines WHERE lease_id = '' LIMIT 1").dicts()
    wrong = rows[0] | {"window_start_ns": 1, "basis": "list", "amount": "1", "delta": "1"}
    wrong |= {"parts": {}, "known_ns": rows[0]["known_ns"]}
    store.insert_rows("cost_lines", [wrong])
    store.close()
    options = ("warehouse", "build", "--home", str(home), "--exclude", "test_type:unit")
    done = fungible(dbt, *options, "--select", "int_attempts", "--full-refresh")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "one_basis_per_attempt: fail" in done.stderr
    assert "basis = 'mixed'" in done.stderr


def test_an_empty_home_is_built_and_refusals_have_their_codes(dbt: str, tmp_path: Path) -> None:
    home = tmp_path / "new"
    built = build(dbt, home)
    assert {node["kind"] for node in built["nodes"]} == {"model", "test", "unit_test"}
    assert {node["status"] for node in built["nodes"]} == {"success", "pass"}
    build_ = ("warehouse", "build", "--home", str(home))
    refused = fungible(dbt, *build_, "--select", "no_such_model")
    assert (refused.returncode, "hint:" in refused.stderr) == (2, True), refused.stderr
    refused = fungible(dbt, *build_, "--target", "server")
    assert refused.returncode == 4
    refused = fungible(str(tmp_path / "nothing"), *build_)
    assert refused.returncode == 4
    assert "dbt-clickhouse==1.10.3" in refused.stderr
