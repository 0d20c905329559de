"""The synthetic month is the same every time, adds up, and holds the faults that it says."""

import csv
import json
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from fungible.world.calls import CUT_NS, END_NS, START_NS, calls
from fungible.world.contracts import invoice_rows
from fungible.world.truth import cost_of, euro_in_dollars, parts_of, truth_of
from fungible.world.write import World, write_world

COUNT = 400
MADE = calls(COUNT, 7)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"), count=COUNT, seed=7)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_month_every_time(world: World, tmp_path: Path) -> None:
    again = write_world(tmp_path / "again", count=COUNT, seed=7)
    assert content(again.folder) == content(world.folder)
    other = write_world(tmp_path / "other", count=COUNT, seed=8)
    assert other.truth != world.truth


def test_another_order_is_the_same_truth_and_the_same_lines(world: World, tmp_path: Path) -> None:
    shuffled = write_world(tmp_path, count=COUNT, seed=7, order=3)
    assert shuffled.truth == world.truth
    before, after = ([path.read_bytes() for path in each.responses] for each in (world, shuffled))
    assert before != after
    assert [sorted(data.splitlines()) for data in before] == [
        sorted(data.splitlines()) for data in after
    ]


def test_every_breakdown_adds_up_to_the_whole(world: World) -> None:
    truth = world.truth
    for rows in (
        truth.by_customer,
        truth.by_feature,
        truth.by_owner,
        truth.by_backend,
        truth.by_day,
    ):
        assert sum(row.attempts for row in rows.values()) == truth.attempts == len(MADE)
        assert sum(row.unpriced for row in rows.values()) == truth.unpriced
        assert sum((row.dollars for row in rows.values()), Decimal(0)) == truth.dollars


def test_what_is_billed_is_what_the_calls_cost_whether_we_know_it_or_not() -> None:
    truth = truth_of(MADE)
    billed: dict[str, Decimal] = {}
    for rows in invoice_rows(MADE).values():
        header, *lines = rows
        for line in lines:
            row = dict(zip(header, line, strict=True))
            if row["ChargeCategory"] == "Usage":
                issuer = row["InvoiceIssuerName"]
                billed[issuer] = billed.get(issuer, Decimal(0)) + Decimal(row["BilledCost"])
    assert {name: billed[name] for name in truth.billed} == truth.billed
    assert billed["own-fleet"] == truth.by_backend["fleet"].dollars + truth.idle


def test_each_fault_is_there() -> None:
    found = {fault for call in calls(2_000, 1) for fault in call.faults}
    assert len(found) == 6
    some = calls(2_000, 1)
    assert any(call.skew_ns for call in some)
    assert any(call.tier == "flex" for call in some)
    assert len({call.customer for call in some if call.key == "key-shared"}) == 2
    assert {call.started_ns < CUT_NS for call in some if call.service == "hosted-a"} == {
        True,
        False,
    }


def test_the_price_of_a_call_is_that_of_its_start_and_its_tier() -> None:
    hosted = [call for call in MADE if call.service == "hosted-a" and not call.faults]
    call = next(call for call in hosted if not call.tier and call.started_ns < CUT_NS)
    leaves = call.leaves
    expected = (
        leaves.in_uncached * Decimal("0.40")
        + leaves.in_cache_read * Decimal("0.10")
        + (leaves.out_visible + leaves.out_reasoning) * Decimal("1.60")
    ) / 1_000_000
    assert cost_of(call) == expected
    flex = next(call for call in hosted if call.tier)
    assert all("-flex/" in part.sku for part in parts_of(flex))


def test_the_fleet_serves_one_call_at_a_time_within_the_month() -> None:
    fleet = [call for call in MADE if call.service == "fleet"]
    assert all(first.ended_ns <= second.started_ns for first, second in pairwise(fleet))
    assert all(START_NS <= call.started_ns < call.ended_ns <= END_NS for call in fleet)


def test_weekends_have_fridays_rate(world: World) -> None:
    (path,) = world.rates
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    days = {row["day"]: Decimal(row["rate"]) for row in rows}
    assert "2026-10-03" not in days  # a Saturday
    assert euro_in_dollars(date(2026, 10, 4)) == days["2026-10-02"]


def test_it_says_that_it_is_simulated(world: World) -> None:
    assert json.loads((world.folder / "truth.json").read_bytes())["simulated"] is True
