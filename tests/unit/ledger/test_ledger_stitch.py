"""Facts about one call become one attempt, in whatever order and pieces they arrive."""

import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungible.contract.events import Record
from fungible.contract.streams import InfraFact, SpanFact
from fungible.ledger.joining import join
from fungible.ledger.stitch import stitch
from fungible.ledger.store import Store
from fungible.ledger.whereabouts import Seen, Whereabouts
from support.call_facts import T0, USED, Ledger, S, response, span

EXAMPLES = 10


def machine(name: str, observed: int, **changes: Any) -> InfraFact:
    fields: dict[str, Any] = {"provider": "k8s", "resource": name, "observed_ns": observed}
    fields |= {"kind": "pod", "source": "f", "digest": f"i-{name}-{observed}"}
    return InfraFact(**(fields | changes))


def test_a_response_and_its_span_are_one_attempt(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(response("r1", backend="hosted", tier="flex"))
    first = ledger.only()
    assert first["backend"] == "hosted"
    assert ledger.ship(span("s1", response_id="r1", customer="acorn", rank=3, in_uncached=99)) == 1
    row = ledger.only()
    assert row["attempt_id"] == first["attempt_id"]
    assert (row["started_ns"], row["ended_ns"]) == (T0 + 7, T0 + 9 * S)
    assert (row["customer"], row["tier"], row["in_uncached"]) == ("acorn", "flex", 6)
    assert (row["trace_id"], row["span_id"], row["response_id"]) == ("t1", "s1", "r1")
    assert ledger.ship(span("s1", response_id="r1", customer="acorn", rank=3, in_uncached=99)) == 0


def test_a_row_known_by_its_span_joins_the_response_that_the_span_names(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(response("", response_id="", trace_id="t1", span_id="s1", rank=3, in_uncached=1))
    ledger.ship(response("r1"))
    assert len(ledger.attempts()) == 2
    ledger.ship(span("s1", response_id="r1"))
    row = ledger.only()
    assert (row["response_id"], row["in_uncached"]) == ("r1", 6)
    assert store.query("SELECT count() FROM all_attempts WHERE withdrawn").rows == [(1,)]


def test_an_operation_above_its_calls_is_no_attempt(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(span("op", rank=3, **USED, customer="acorn", ended_ns=T0 + 20 * S))
    ledger.ship(
        span("a", parent_span_id="op", status="error", ended_ns=T0 + 2 * S),
        span("b", parent_span_id="op", started_ns=T0 + 3 * S, rank=3, **USED),
    )
    rows = sorted(ledger.attempts(), key=lambda row: row["span_id"])
    assert [(row["span_id"], row["attempt_no"], row["role"]) for row in rows] == [
        ("a", 0, "first"),
        ("b", 1, "retry"),
    ]
    assert {row["customer"] for row in rows} == {"acorn"}
    assert len({row["request_id"] for row in rows}) == 1
    assert [row["in_uncached"] for row in rows] == [None, 6]


def test_usage_that_only_the_operation_states_counts_once(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(span("a", parent_span_id="op"), span("op", rank=3, **USED))
    assert ledger.only()["in_uncached"] == 6


def test_two_answers_logged_under_one_span_stay_two(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(
        response("r1", trace_id="t1", span_id="s1"), response("r2", trace_id="t1", span_id="s1")
    )
    ledger.ship(span("s1"))
    assert [row["response_id"] for row in ledger.attempts()] in (["r1", "r2"], ["r2", "r1"])


def test_a_call_waits_until_something_says_when_it_was(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(response("r1", started_ns=0, ended_ns=0))
    assert ledger.attempts() == []
    ledger.ship(span("s1", response_id="r1"))
    assert ledger.only()["started_ns"] == T0 + 7


def test_machines_say_where_a_call_went_before_and_after_it(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(span("s1", server="10.0.0.5:8000", ended_ns=T0 + S))
    assert ledger.only()["backend"] == "10.0.0.5:8000"
    late = T0 + 100 * S  # first seen after the call: better than nothing
    pod = {"addresses": ["10.0.0.5"], "parent": "node-1", "backend": "fleet"}
    ledger.ship(machine("pod-1", late, **pod))
    assert (ledger.only()["backend"], ledger.only()["accelerator"]) == ("fleet", "")
    ledger.ship(machine("node-1", late, kind="node", accelerator="nvidia-h100", region="eu"))
    row = ledger.only()
    assert (row["accelerator"], row["region"]) == ("nvidia-h100", "eu")
    ledger.ship(machine("node-1", T0, kind="node", accelerator="nvidia-a100"))
    assert ledger.only()["accelerator"] == "nvidia-a100"
    assert ledger.ship(machine("node-1", T0 + 99 * S, kind="node", accelerator="nvidia-a100")) == 0


def test_an_address_that_was_given_on_belongs_to_whoever_lived_then(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(
        machine("old", T0 - 90 * S, addresses=["h"], backend="old", started_ns=T0 - 99 * S),
        machine("new", T0 + 90 * S, addresses=["h"], backend="new", started_ns=T0 - 10 * S),
        span("s1", server="h:80", ended_ns=T0 + S),
        span("s0", server="h:80", started_ns=T0 - 50 * S, ended_ns=T0 - 40 * S),
    )
    rows = {row["span_id"]: row["backend"] for row in ledger.attempts()}
    assert rows == {"s1": "new", "s0": "old"}


def test_an_idle_call_appends_and_reads_nothing_new(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(response("r1"))
    runs = store.query("SELECT * FROM stitch_runs FINAL").rows
    assert stitch(store, time.time_ns()) == 0
    assert store.query("SELECT * FROM stitch_runs FINAL").rows == runs


def test_facts_that_a_clock_set_back_stamped_are_seen(store: Store) -> None:
    ledger = Ledger(store)
    ledger.ship(response("r1"))
    ahead = store.query("SELECT now64(9) + INTERVAL 1 HOUR").rows[0][0].timestamp()
    store.insert_rows(
        "stitch_runs", [{"at_ns": 1 << 62, "facts_ns": int(ahead * S), "infra_ns": 0}]
    )
    store.insert([response("r2")], "later")
    stitch(store, int(ahead * S) - 3600 * S + S)
    assert len(ledger.attempts()) == 2


ids = st.sampled_from(["", "r1", "r2", "r3"])
spans = st.sampled_from(["", "s1", "s2", "s3"])
_world = itertools.count()


@st.composite
def worlds(draw: st.DrawFn) -> tuple[str, list[Record]]:
    """Facts under names that no other world has."""
    world = f"w{next(_world)}-{time.time_ns()}-"

    def own(name: str) -> str:
        return f"{world}{name}" if name else ""

    made: list[Record] = []
    for number in range(draw(st.integers(1, 7))):
        rid, sid = own(draw(ids)), draw(spans)
        common: dict[str, Any] = {
            "digest": own(f"{number:04d}"),
            "response_id": rid,
            "started_ns": draw(st.sampled_from([0, T0, T0 + S])),
            "ended_ns": draw(st.sampled_from([0, T0 + 2 * S, T0 + 3 * S])),
            "rank": draw(st.sampled_from([0, 1, 3])),
            "in_uncached": number,
            "customer": draw(st.sampled_from(["", "a", "b"])),
            "server": own(draw(st.sampled_from(["", "h:80"]))),
            "status": draw(st.sampled_from(["", "ok", "error"])),
            "tags": draw(st.sampled_from([{}, {"k": "1"}, {"k": "2", "l": "1"}])),
            "trace_id": own("t") if sid else "",
        }
        if draw(st.booleans()) and sid:
            parent = draw(spans)
            made.append(span(sid, **common, parent_span_id=parent if parent != sid else ""))
        elif rid or sid:
            made.append(response(rid, **common, span_id=sid))
    for number in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(["p", "q"]))
        at = draw(st.sampled_from([T0 - S, T0 + S, T0 + 9 * S]))
        addresses = draw(st.sampled_from([[], ["h"], ["h:80"]]))
        made.append(
            machine(
                own(name),
                at,
                digest=own(f"{number}"),
                addresses=[own(one) for one in addresses],
                backend=draw(st.sampled_from(["", "x", "y"])),
                parent=own(draw(st.sampled_from(["", "q"]))),
                started_ns=draw(st.sampled_from([0, T0])),
            )
        )
    return world, made


def together(made: Sequence[Record]) -> list[dict[str, Any]]:
    """What the whole set means, without any ledger."""
    where, facts = Whereabouts(), []
    for one in made:
        if isinstance(one, InfraFact):
            fields = {name: getattr(one, name) for name in Seen.__struct_fields__}
            where.add(Seen(**fields))
            for address in one.addresses:
                where.add(Seen(**fields), address)
        else:
            cells = {"parent_span_id": "", **msgspec.structs.asdict(one)}  # type: ignore[call-overload]
            facts.append(cells | {"is_span": isinstance(one, SpanFact)})
    joined = join(facts, where.locate, lambda _: "")
    return sorted(joined.rows, key=lambda row: row["attempt_id"])


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(worlds(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_order_any_pieces_once_or_twice_give_the_same_attempts(
    store: Store, made: tuple[str, list[Record]], chance: random.Random, pieces: int
) -> None:
    world, facts = made
    ledger = Ledger(store)
    again = [*facts, *chance.sample(facts, chance.randint(0, len(facts)))]
    chance.shuffle(again)
    for at in range(pieces):
        ledger.ship(*again[at::pieces])
    expected = together(facts)
    found = [
        row
        for row in ledger.attempts()
        if row["response_id"].startswith(world) or row["trace_id"].startswith(world)
    ]
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert {name: row[name] for name in wanted} == wanted
