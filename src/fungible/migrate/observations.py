"""What online traffic says about a candidate: attempts, scored by cheap checks and paired."""

from collections.abc import Iterable, Sequence

import msgspec

from fungible.migrate.eprocess import BoundaryTest
from fungible.migrate.states import Migration

# `length` is a clean end: the client's own limit was reached.
_CLEAN_ENDS = frozenset({"stop", "length", "tool_calls"})
# The request itself was at fault; any backend would have refused it.
_CLIENT_FAULTS = frozenset({400, 404, 413, 422})


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of an attempt that a migration looks at, as they are in the ledger."""

    attempt_id: str
    request_id: str
    kind: str
    backend: str
    attempt_no: int = 0
    status: str
    http_status: int = 0
    finish_reason: str = ""
    output_chars: int | None = None
    output_hash: str = ""
    started_ns: int = 0


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the evidence stands.

    Attributes:
        test: Both e-processes over every pair of the stage.
        failures_in_row: The candidate's most recent attempts that failed, without a gap.
        step_attempts: The candidate's attempts since the canary step began.
        evidence: Every number by name, for the ledger and for people.
    """

    test: BoundaryTest
    failures_in_row: int
    step_attempts: int
    evidence: dict[str, float]


def score(row: AttemptRow) -> float:
    """1 if the attempt succeeded, came to a clean end and was not empty; otherwise 0."""
    empty = row.output_chars is not None and row.output_chars == 0
    return float(row.status == "ok" and row.finish_reason in _CLEAN_ENDS and not empty)


def assess(migration: Migration, rows: Iterable[AttemptRow]) -> Assessment:
    """Weigh the stage's attempts, in whatever order they were read.

    Everything is computed from the ledger's rows each time, so a restart, or a row that
    arrives late, changes nothing. Attempts that the client cancelled say nothing about a
    backend and are left out. Pairs are made of first attempts; retries and fallbacks were not
    drawn at random, so they only count as failures in a row.
    """
    known = {row.attempt_id: row for row in rows if row.status != "cancelled"}
    ordered = sorted(known.values(), key=lambda row: (row.started_ns, row.attempt_id))
    mine = "shadow" if migration.state == "shadow" else "serve"
    tries = [row for row in ordered if row.backend == migration.candidate and row.kind == mine]
    candidate = [row for row in tries if row.attempt_no == 0]
    incumbents = set(migration.incumbents)
    others = [
        row
        for row in ordered
        if row.backend in incumbents and row.kind == "serve" and row.attempt_no == 0
    ]
    if migration.state == "shadow":
        margin, pairs = migration.policy.shadow_margin, pair_by_request(candidate, others)
        differences = [score(mine) - score(other) for mine, other in pairs]
    else:
        margin, pairs = migration.policy.canary_margin, pair_by_time(candidate, others)
        differences = [_ok(mine) - _ok(other) for mine, other in pairs]
    test = BoundaryTest(margin=margin)
    for difference in differences[: migration.policy.max_pairs]:
        test = test.update(difference)
    failures = _failures_in_row(tries)
    step_attempts = sum(row.started_ns >= migration.step_ns for row in candidate)
    evidence = {
        "pairs": float(test.pairs),
        "margin": margin,
        "e_promote": test.e_promote,
        "e_rollback": test.e_rollback,
        "promote_at": migration.policy.promote_at,
        "rollback_at": migration.policy.rollback_at,
        "candidate_attempts": float(len(candidate)),
        "step_attempts": float(step_attempts),
        "failures_in_row": float(failures),
    }
    evidence |= _scores(differences, pairs) if pairs else {}
    if migration.state == "shadow" and pairs:
        evidence |= _lengths(pairs)
    return Assessment(
        test=test, failures_in_row=failures, step_attempts=step_attempts, evidence=evidence
    )


def pair_by_request(
    candidate: Sequence[AttemptRow], others: Sequence[AttemptRow]
) -> list[tuple[AttemptRow, AttemptRow]]:
    """A shadow and the attempt that answered the same request."""
    primary = {row.request_id: row for row in others}
    shadows = {row.request_id: row for row in candidate}
    return [(row, primary[key]) for key, row in shadows.items() if key in primary]


def pair_by_time(
    candidate: Sequence[AttemptRow], others: Sequence[AttemptRow]
) -> list[tuple[AttemptRow, AttemptRow]]:
    """Each canary attempt with the nearest unused one before it, or else the next one after.

    Who answers a request is drawn at random, so neighbours in time differ by backend only;
    pairing neighbours takes out what changes slowly, such as load. Both come sorted by time.
    """
    pairs = []
    free: list[AttemptRow] = []
    waiting: list[AttemptRow] = []
    for row in sorted([*candidate, *others], key=lambda row: (row.started_ns, row.attempt_id)):
        is_candidate = row.backend == candidate[0].backend if candidate else False
        own, other = (waiting, free) if is_candidate else (free, waiting)
        if other:
            match = other.pop()
            pairs.append((row, match) if is_candidate else (match, row))
        else:
            own.append(row)
    return pairs


def _ok(row: AttemptRow) -> float:
    return float(row.status == "ok")


def _failures_in_row(tries: Sequence[AttemptRow]) -> int:
    count = 0
    for row in reversed(tries):
        if row.status == "ok":
            break
        count += row.http_status not in _CLIENT_FAULTS
    return count


def _scores(
    differences: Sequence[float], pairs: Sequence[tuple[AttemptRow, AttemptRow]]
) -> dict[str, float]:
    return {
        "mean_difference": sum(differences) / len(differences),
        "candidate_ok": sum(_ok(mine) for mine, _ in pairs) / len(pairs),
        "incumbent_ok": sum(_ok(other) for _, other in pairs) / len(pairs),
    }


def _lengths(pairs: Sequence[tuple[AttemptRow, AttemptRow]]) -> dict[str, float]:
    """How the answers compare where both were read: total length, and how many are the same."""
    both = [
        (mine, other)
        for mine, other in pairs
        if score(mine) and score(other) and other.output_chars
    ]
    if not both:
        return {}
    total = sum(other.output_chars or 0 for _, other in both)
    return {
        "length_ratio": sum(mine.output_chars or 0 for mine, _ in both) / total,
        "same_output": sum(mine.output_hash == other.output_hash for mine, other in both)
        / len(both),
    }
