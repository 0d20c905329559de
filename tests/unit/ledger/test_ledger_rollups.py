"""Rollups add up to what the attempts and their lines say, to the last digit, at any moment."""

import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.ledger.prices import PriceBook
from fungible.ledger.pricing import reprice
from fungible.ledger.rollups import (
    BACKEND_MINUTES,
    CUSTOMER_DAYS,
    CUSTOMER_HOURS,
    ROLLUPS,
    USAGE_HOURS,
    Rollup,
    settle,
    since,
    usage,
)
from fungible.ledger.sheets import load_prices
from fungible.ledger.store import Store

S = 1_000_000_000
HOUR = 3600 * S
T0 = 1_790_000_040 * S
NOW = T0 + 10 * 24 * HOUR

MakeAttempt = Callable[..., AttemptEvent]
MakeLease = Callable[..., LeaseEvent]


def book(folder: Path, price: str = "0.15", currency: str = "USD") -> PriceBook:
    path = folder / "prices.csv"
    path.write_text(
        "key,unit,leaf,price,currency\n"
        f"by-hour,hour,,3.6,{currency}\n"
        f"by-token,1M_tokens,input,{price},{currency}\n"
        f"by-token,1M_tokens,output,0.60,{currency}\n",
        encoding="utf-8",
    )
    return load_prices(path)


def by_rollup(store: Store, rollup: Rollup, dimension: str, moment: int) -> dict[Any, Any]:
    rows = store.query(
        f"SELECT {dimension}, kind, sum(u.attempts), sum(u.input_tokens + u.output_tokens),"
        " sum(u.priced), sum(u.priced_tokens), sum(u.amount)"
        f" FROM {usage(rollup, (*{dimension, 'kind'},))} AS u GROUP BY {dimension}, kind",
        since(rollup, moment),
    ).rows
    return {row[:2]: row[2:] for row in rows if row[2]}


def one_by_one(store: Store, dimension: str, moment: int) -> dict[Any, Any]:
    rows = store.query(
        f"SELECT {dimension}, kind, count(),"
        " sum(ifNull(input_tokens, 0) + ifNull(output_tokens, 0)), countIf(cost IS NOT NULL),"
        " sumIf(ifNull(input_tokens, 0) + ifNull(output_tokens, 0), cost IS NOT NULL),"
        " sum(ifNull(cost, 0)) FROM attempts"
        f" WHERE started_ns >= {{since:Int64}} GROUP BY {dimension}, kind",
        {"since": moment},
    ).rows
    return {row[:2]: row[2:] for row in rows}


def joined(store: Store) -> dict[str, Decimal]:
    """What each attempt costs by its newest lines, without any delta."""
    rows = store.query("SELECT attempt_id, sum(l.amount) FROM costs AS l GROUP BY attempt_id").rows
    return dict(rows)


def check(store: Store) -> None:
    for moment in (T0 + 7 * S, T0 + 26 * HOUR + 1):
        for rollup, dimension in (
            *((USAGE_HOURS, name) for name in ("owner", "feature", "backend", "model")),
            (CUSTOMER_HOURS, "customer"),
            (CUSTOMER_DAYS, "feature"),
            (BACKEND_MINUTES, "backend"),
        ):
            expected = one_by_one(store, dimension, moment)
            assert by_rollup(store, rollup, dimension, moment) == expected, (rollup.table, moment)
    costs = store.query("SELECT attempt_id, cost FROM attempts WHERE cost IS NOT NULL").rows
    assert dict(costs) == joined(store)
    assert settle(store) == []


@pytest.mark.parametrize("seed", range(2))
def test_rollups_equal_the_attempts_whatever_happens(
    store: Store, attempt: MakeAttempt, lease: MakeLease, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)

    def some(name: str, **changes: Any) -> AttemptEvent:
        start = T0 + rng.randrange(3 * 24 * HOUR)
        if rng.random() < 0.5:
            start = T0 + rng.randrange(200 * S)
        return attempt(
            name,
            started_ns=start,
            ended_ns=start + rng.randrange(100 * S),
            attempt_no=rng.randrange(2),
            kind=rng.choice(["serve", "shadow"]),
            backend=rng.choice(["by-token", "by-hour", "free"]),
            customer=rng.choice(["ann", "bob", ""]),
            feature=rng.choice(["chat", ""]),
            owner=rng.choice(["team", ""]),
            in_uncached=rng.choice([None, 0, rng.randrange(10_000)]),
            out_visible=rng.randrange(1000),
            **changes,
        )

    store.insert([lease(seen_ns=T0 + 150 * S), lease("second", seen_ns=T0 + 90 * S)], "leases")
    imported: list[AttemptEvent] = []
    for step in range(5):
        store.insert([some(f"{step}-{n}") for n in range(rng.randrange(1, 12))], f"own-{step}")
        restated = [msgspec.structs.replace(one, customer="cid") for one in imported[:2]]
        moved = [some(one.attempt_id.removeprefix("att_")) for one in imported[2:3]]
        gone = [{**msgspec.structs.asdict(one), "withdrawn": True} for one in imported[3:4]]
        fresh = [some(f"put-{step}-{n}") for n in range(4)]
        store.insert_rows("imported_attempts", [*restated, *moved, *gone, *fresh])
        imported = [*fresh, *imported]
        prices = book(tmp_path, rng.choice(["0.15", "0.2"]))
        reprice(store, prices, NOW + step * 10)
        if step == 2:
            check(store)
    store.insert([lease(seen_ns=T0 + 240 * S)], "grown")
    reprice(store, prices, NOW + 100)
    check(store)


def test_a_segment_that_is_shipped_again_is_in_the_sums_once(
    store: Store, attempt: MakeAttempt, tmp_path: Path
) -> None:
    records = [attempt(str(n), started_ns=T0 + n * HOUR) for n in range(40)]
    store.insert(records, "gateway-0/segment")
    before = {rollup.table: _all(store, rollup) for rollup in ROLLUPS}
    for _ in range(2):
        store.insert(records, "gateway-0/segment")
    assert {rollup.table: _all(store, rollup) for rollup in ROLLUPS} == before
    assert before["usage_hours"][0] == 40
    reprice(store, book(tmp_path), NOW)
    check(store)


def test_sums_that_a_crash_left_out_are_made_good(
    store: Store, attempt: MakeAttempt, tmp_path: Path
) -> None:
    """As after a kill between the insert of the lines and of what two views made of them."""
    views = ("usage_hours_money", "backend_minutes_money")
    made = [store.query(f"SHOW CREATE TABLE {view}").rows[0][0] for view in views]
    for view in views:
        store.command(f"DROP VIEW {view}")
    store.insert([attempt(str(n), started_ns=T0 + n * HOUR) for n in range(5)], "one")
    reprice(store, book(tmp_path), NOW)
    for statement in made:
        store.command(statement)
    store.insert([attempt("later")], "two")
    reprice(store, book(tmp_path), NOW + 10)
    assert settle(store) == []
    check(store)


def _all(store: Store, rollup: Rollup) -> tuple[int, int]:
    rows = store.query(f"SELECT sum(r.attempts), sum(r.input_tokens) FROM {rollup.table} AS r").rows
    return int(rows[0][0]), int(rows[0][1])
