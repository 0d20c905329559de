"""The state machine moves by evidence, and doubt goes back."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.config import MigrationPolicy
from fungible.migrate.decision import decide
from fungible.migrate.observations import AttemptRow, assess, pair_by_time, score
from fungible.migrate.states import EDGES, Migration, State, Transition
from fungible.routing.table import Route

POLICY = MigrationPolicy()
NOW = 1_000_000_000_000


def migration(state: State = "shadow", **changes: Any) -> Migration:
    route = Route(model="m", reference="ref", weights={"ref": 1.0})
    fresh = Migration(
        migration_id="mig_1",
        model="m",
        candidate="cand",
        reference="ref",
        binding="b",
        policy=POLICY,
        created_ns=0,
        updated_ns=0,
        state=state,
        before=route,
        route=route,
    )
    return msgspec.structs.replace(fresh, **changes)


def row(number: int, backend: str = "ref", kind: str = "serve", **changes: Any) -> AttemptRow:
    fresh = AttemptRow(
        attempt_id=f"{backend}-{kind}-{number}",
        request_id=f"req-{number}",
        kind=kind,
        backend=backend,
        status="ok",
        http_status=200,
        finish_reason="stop",
        output_chars=10,
        output_hash="same",
        started_ns=number,
    )
    return msgspec.structs.replace(fresh, **changes)


def shadowed(count: int, failing: int = 0) -> list[AttemptRow]:
    broken = {"status": "error", "http_status": 500, "finish_reason": ""}
    rows = []
    for number in range(count):
        rows.append(row(number))
        # Spread out, so that no run of failures trips before the statistics do.
        bad = failing and number % failing == 0
        rows.append(row(number, "cand", "shadow", **(broken if bad else {})))
    return rows


def moved(state: Migration, rows: list[AttemptRow], **options: Any) -> Transition | None:
    return decide(state, assess(state, rows), now_ns=NOW, **options)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1.0),
        ({"finish_reason": "length"}, 1.0),
        ({"finish_reason": "tool_calls"}, 1.0),
        ({"output_chars": None}, 1.0),
        ({"output_chars": 0}, 0.0),
        ({"status": "error"}, 0.0),
        ({"status": "interrupted"}, 0.0),
        ({"finish_reason": "content_filter"}, 0.0),
        ({"finish_reason": ""}, 0.0),
    ],
)
def test_an_answer_is_scored_by_cheap_checks(changes: dict[str, Any], expected: float) -> None:
    assert score(row(1, **changes)) == expected


def test_shadow_waits_until_the_evidence_is_there() -> None:
    assert moved(migration(), shadowed(72)) is None
    transition = moved(migration(), shadowed(73))
    assert transition is not None
    assert (transition.to, transition.step) == ("canary", 0)
    assert transition.evidence["pairs"] == 73
    assert transition.evidence["e_promote"] >= 20
    assert transition.evidence["same_output"] == 1.0
    assert transition.evidence["length_ratio"] == 1.0


def test_shadow_needs_its_minimum_of_pairs_whatever_the_evidence() -> None:
    patient = migration(policy=msgspec.structs.replace(POLICY, shadow_min_pairs=100))
    assert moved(patient, shadowed(99)) is None
    assert moved(patient, shadowed(100)) is not None


def test_a_candidate_that_fails_every_fourth_time_is_rolled_back_by_statistics() -> None:
    transition = moved(migration(), shadowed(80, failing=4))
    assert transition is not None
    assert transition.to == "rolled_back"
    assert "E2" in transition.reason
    assert transition.evidence["mean_difference"] == pytest.approx(-0.25)


def test_a_run_of_failures_trips_at_once() -> None:
    transition = moved(migration(), shadowed(5, failing=1))
    assert transition is not None
    assert transition.to == "rolled_back"
    assert "5 times in a row" in transition.reason


def test_retries_count_towards_a_run_of_failures_but_not_as_pairs() -> None:
    broken = {"status": "error", "http_status": 503, "finish_reason": ""}
    tries = [row(n, "cand", "serve", attempt_no=n % 2, **broken) for n in range(5)]
    seen = assess(migration("canary"), [*tries, *(row(n) for n in range(10))])
    assert seen.failures_in_row == 5
    assert seen.test.pairs == 3


def test_requests_at_fault_do_not_trip_the_candidate() -> None:
    bad = {"status": "error", "http_status": 400, "finish_reason": ""}
    rows = [row(n, **bad) for n in range(8)] + [row(n, "cand", "shadow", **bad) for n in range(8)]
    assert moved(migration(), rows) is None


def test_failures_of_the_incumbent_are_not_held_against_the_candidate() -> None:
    broken = {"status": "error", "http_status": 500, "finish_reason": ""}
    rows = [row(n, **(broken if n % 3 == 0 else {})) for n in range(80)]
    rows += [row(n, "cand", "shadow") for n in range(80)]
    transition = moved(migration(), rows)
    assert transition is not None
    assert transition.to == "canary"


def test_only_pairs_of_one_request_count_in_shadow() -> None:
    rows = [row(n) for n in range(100)] + [row(n + 500, "cand", "shadow") for n in range(100)]
    assert assess(migration(), rows).test.pairs == 0


def test_cancelled_and_repeated_rows_do_not_count() -> None:
    rows = shadowed(20)
    cancelled = [row(n, status="cancelled") for n in range(20, 40)]
    cancelled += [row(n, "cand", "shadow") for n in range(20, 40)]
    assert assess(migration(), [*rows, *rows, *cancelled]).test.pairs == 20


@given(st.randoms(use_true_random=False), st.integers(0, 40), st.integers(0, 5))
def test_the_order_of_rows_changes_nothing(rng: random.Random, count: int, failing: int) -> None:
    rows = shadowed(count, failing)
    mixed = rows[:]
    rng.shuffle(mixed)
    assert assess(migration(), mixed) == assess(migration(), rows)


def canary(step: int = 0, **changes: Any) -> Migration:
    return migration("canary", step=step, **changes)


def served(count: int, step_from: int = 0) -> list[AttemptRow]:
    """Two attempts of the incumbent for each of the candidate."""
    rows = []
    for number in range(step_from, step_from + count):
        rows += [row(10 * number), row(10 * number + 1), row(10 * number + 2, "cand")]
    return rows


def test_a_canary_step_goes_on_after_its_minimum() -> None:
    assert moved(canary(), served(14)) is None
    transition = moved(canary(), served(15))
    assert transition is not None
    assert (transition.to, transition.step) == ("canary", 1)


def test_a_canary_step_waits_while_the_bets_do_not_lean_its_way() -> None:
    rows = served(15)
    rows[2] = msgspec.structs.replace(rows[2], status="error", http_status=500)
    seen = assess(canary(), rows)
    assert seen.test.e_promote < 1.0
    assert decide(canary(), seen, now_ns=NOW) is None


def test_the_last_step_promotes_only_with_evidence() -> None:
    assert moved(canary(1), served(35)) is None
    transition = moved(canary(1), served(36))
    assert transition is not None
    assert transition.to == "promoted"
    assert transition.evidence["candidate_ok"] == 1.0


def test_attempts_of_an_earlier_step_do_not_count_for_this_one() -> None:
    assert moved(canary(1, step_ns=1_000_000), served(40)) is None


def test_a_failing_canary_is_rolled_back() -> None:
    rows = [
        msgspec.structs.replace(item, status="error", http_status=502)
        if item.backend == "cand" and item.started_ns % 20 == 2
        else item
        for item in served(40)
    ]
    transition = moved(canary(), rows)
    assert transition is not None
    assert transition.to == "rolled_back"


def test_neighbours_in_time_are_paired_once_each() -> None:
    others = [row(1), row(2), row(9)]
    mine = [row(3, "cand"), row(4, "cand"), row(5, "cand")]
    pairs = pair_by_time(mine, others)
    assert [(a.started_ns, b.started_ns) for a, b in pairs] == [(3, 2), (4, 1), (5, 9)]


def test_what_is_no_longer_admitted_goes_back_before_it_goes_on() -> None:
    transition = moved(migration(), shadowed(200), refusal="the verdict has expired")
    assert transition is not None
    assert transition.to == "rolled_back"
    assert "the verdict has expired" in transition.reason


def test_the_horizon_in_pairs_and_in_time() -> None:
    undecided = msgspec.structs.replace(POLICY, max_pairs=50, promote_at=1e9)
    transition = moved(migration(policy=undecided), shadowed(60))
    assert transition is not None
    assert transition.to == "rolled_back"
    assert "inconclusive" in transition.reason
    late = decide(migration(), assess(migration(), []), now_ns=int(86_401e9))
    assert late is not None
    assert "86400 s" in late.reason
    assert decide(migration(), assess(migration(), []), now_ns=int(86_399e9)) is None


@pytest.mark.parametrize("state", list(EDGES))
def test_edges_that_are_not_drawn_cannot_be_taken(state: State) -> None:
    for target in EDGES:
        transition = Transition(to=target, reason="because")
        if target in EDGES[state]:
            assert migration(state).take(transition, NOW).state == target
        else:
            with pytest.raises(ValueError, match="cannot go"):
                migration(state).take(transition, NOW)


def test_a_stage_begins_anew_but_a_step_goes_on() -> None:
    shadow = migration(stage_ns=5)
    first = shadow.take(Transition(to="canary", reason=""), 10)
    second = first.take(Transition(to="canary", step=1, reason=""), 20)
    assert (first.stage_ns, first.step_ns) == (10, 10)
    assert (second.stage_ns, second.step_ns) == (10, 20)
    assert (first.weight, second.weight) == (0.25, 0.5)


def test_a_migration_survives_its_storage() -> None:
    state = msgspec.structs.replace(migration(), test=assess(migration(), shadowed(9)).test)
    assert msgspec.json.decode(msgspec.json.encode(state), type=Migration) == state
