"""What pricing reads of a backend: its attempts, its engine's steps, their fits, its weights."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from fungible.contract.steps import LONGEST_STEP_NS
from fungible.ledger.costing import WINDOW_NS, Busy
from fungible.ledger.fit import StepFit, fit_steps
from fungible.ledger.lines import Whose
from fungible.ledger.priced import known_tokens
from fungible.ledger.prices import LEAVES
from fungible.ledger.queries import Queryable
from fungible.ledger.sharing import Active
from fungible.ledger.step_shares import EngineStep
from fungible.ledger.store import EVERYTHING, Store

# How far an engine's clock may be from the gateway's for an attempt to find its steps.
CLOCK_SLACK_NS = 600 * 1_000_000_000
# A run's fit is made anew at each doubling of its steps, and rests after that.
LEAST_SAMPLES, MOST_SAMPLES = 64, 1 << 14
_ATTEMPT = (
    "attempt_id, backend, started_ns, ended_ns, ingested_ns, kind, model, feature, customer, owner,"
    f" {', '.join(LEAVES)}"
)
_NAMING = (
    "arrayExists(r -> has({ids:Array(String)}, r)"
    " OR has({ids:Array(String)}, replaceRegexpOne(r, '-[0-9]+$', '')), requests)"
)
_STEP = "run, step, start_ns, duration_ns, requests, prefill, decode, kv"


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """What a token of each class costs a backend, in 10^-15 accelerator-seconds."""

    in_uncached: int
    in_cache_read: int
    out: int

    def of(self, usage: Mapping[str, Any]) -> int | None:
        """An attempt's tokens, weighted; `None` when a count is unknown."""
        if any(usage[leaf] is None for leaf in LEAVES):
            return None
        return int(
            self.in_uncached * (usage["in_uncached"] + usage["in_cache_write"])
            + self.in_cache_read * usage["in_cache_read"]
            + self.out * (usage["out_visible"] + usage["out_reasoning"])
        )


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """One backend's in a stretch of time.

    Attributes:
        by_minute: The attempts that touch each minute of the epoch.
        steps: The steps that touch each minute.
        fits: By run.
        known: Every attempt that the steps may name, by id.
    """

    by_minute: Mapping[int, list[Active]]
    steps: Mapping[int, list[EngineStep]]
    fits: Mapping[str, StepFit]
    known: Mapping[str, Active]


NO_ACTIVITY = Activity(by_minute={}, steps={}, fits={}, known={})


def load_activity(
    store: Store, backend: str, start: int, end: int, weights: Weights | None
) -> Activity:
    """What happened in `[start, end)`."""
    attempts = _attempts(
        store,
        "started_ns < {end:Int64} AND ended_ns >= {start:Int64}",
        {"backend": backend, "start": start, "end": end},
        weights,
    )
    by_minute: defaultdict[int, list[Active]] = defaultdict(list)
    for one in attempts.values():
        for minute in _minutes(one.started_ns, max(one.started_ns, one.ended_ns), start, end):
            by_minute[minute].append(one)
    steps = load_steps(store, backend, start, end)
    by_minute_steps: defaultdict[int, list[EngineStep]] = defaultdict(list)
    for step in steps:
        for minute in _minutes(step.start_ns, step.end_ns, start, end):
            by_minute_steps[minute].append(step)
    names = {name for step in steps for request in step.requests for name in _names(request)}
    if missing := sorted(names - attempts.keys()):
        named = "has({ids:Array(String)}, attempt_id)"
        found = _attempts(store, named, {"backend": backend, "ids": missing}, weights)
        attempts = attempts | found
    runs = {step.run for step in steps}
    fits = {run: fit for run, fit in load_fits(store, backend).items() if run in runs}
    return Activity(by_minute=by_minute, steps=by_minute_steps, fits=fits, known=attempts)


def load_steps(
    source: Queryable, backend: str, start: int, end: int, *, naming: str = ""
) -> list[EngineStep]:
    """The steps that touch `[start, end)`, oldest first, each once.

    Args:
        source: The ledger.
        backend: Whose.
        start: In ns.
        end: In ns.
        naming: Only those of this attempt.
    """
    which = f" AND {_NAMING}" if naming else ""
    rows = source.query(
        f"SELECT {_STEP} FROM engine_steps FINAL WHERE backend = {{backend:String}}"  # noqa: S608
        " AND start_ns < {end:Int64} AND start_ns > {first:Int64}"
        f" AND start_ns + duration_ns >= {{start:Int64}}{which} ORDER BY start_ns, run, step",
        {
            "backend": backend,
            "start": start,
            "end": end,
            "first": start - LONGEST_STEP_NS - 1,
            "ids": [naming],
        },
        max_rows=EVERYTHING,
    )
    return [EngineStep(**row) for row in rows.dicts()]


def load_fits(source: Queryable, backend: str) -> dict[str, StepFit]:
    """The newest fit of each run of a backend's engines."""
    rows = source.query(
        "SELECT run, step_fs, prefill_fs, decode_fs, kv_fs, r2, samples FROM step_fits FINAL"
        " WHERE backend = {backend:String} ORDER BY fitted_ns",
        {"backend": backend},
        max_rows=EVERYTHING,
    )
    return {row.pop("run"): StepFit(**row) for row in rows.dicts()}


def load_weights(source: Queryable) -> dict[str, Weights]:
    """The newest class weights of each backend that has any."""
    rows = source.query(
        "SELECT backend, in_uncached, in_cache_read, out FROM class_weights"
        " ORDER BY at_ns, ingested_ns, source"
    )
    return {row.pop("backend"): Weights(**row) for row in rows.dicts()}


def refit(store: Store, since_ns: int, now_ns: int) -> None:
    """Fit the runs that have steps ingested after a moment.

    A fit is over the first steps of its run, as many as the largest power of two that there
    are: whatever the order in which steps arrive, the same steps end with the same fit.
    """
    runs = store.query(
        "SELECT backend, run, min(start_ns) FROM engine_steps WHERE ingested_ns > {since:Int64}"
        " GROUP BY backend, run ORDER BY backend, run",
        {"since": since_ns},
        max_rows=EVERYTHING,
    ).rows
    for backend, run, earliest in runs:
        before, until_ns = _newest_fit(store, backend, run)
        if before and before.samples == MOST_SAMPLES and earliest > until_ns:
            continue
        samples = _samples(store, backend, run)
        if len(samples) < LEAST_SAMPLES:
            continue
        first = samples[: 1 << (len(samples).bit_length() - 1)]
        if before and before.samples == len(first) and earliest > until_ns:
            continue
        fit = fit_steps(row[:4] for row in first)
        if fit is None or fit == before:
            continue
        row = msgspec.structs.asdict(fit)
        row |= {"backend": backend, "run": run, "accepted": fit.accepted}
        row |= {"until_ns": first[-1][4], "fitted_ns": now_ns}
        store.insert_rows("step_fits", [row])


def _newest_fit(store: Store, backend: str, run: str) -> tuple[StepFit | None, int]:
    rows = store.query(
        "SELECT step_fs, prefill_fs, decode_fs, kv_fs, r2, samples, until_ns FROM step_fits FINAL"
        " WHERE backend = {backend:String} AND run = {run:String}"
        " ORDER BY fitted_ns DESC LIMIT 1",
        {"backend": backend, "run": run},
    ).dicts()
    if not rows:
        return None, -1
    until_ns = rows[0].pop("until_ns")
    return StepFit(**rows[0]), until_ns


def _samples(store: Store, backend: str, run: str) -> list[tuple[Any, ...]]:
    """The first steps of a run: duration, prefill, decode and kv tokens, start."""
    return store.query(
        "SELECT duration_ns, prefill_tokens, decode_tokens, arraySum(kv), start_ns"  # noqa: S608
        " FROM engine_steps FINAL WHERE backend = {backend:String} AND run = {run:String}"
        f" ORDER BY start_ns, step LIMIT {MOST_SAMPLES}",
        {"backend": backend, "run": run},
        max_rows=EVERYTHING,
    ).rows


def minutes_of_new_fits(store: Store, since_ns: int) -> dict[str, set[int]]:
    """The minutes of the runs that were fitted after a moment, by backend."""
    runs = store.query(
        "SELECT DISTINCT backend, run FROM step_fits WHERE fitted_ns > {since:Int64}",
        {"since": since_ns},
        max_rows=EVERYTHING,
    ).rows
    found: defaultdict[str, set[int]] = defaultdict(set)
    for backend, run in runs:
        found[backend] |= _minutes_of_steps(store, backend, "run = {run:String}", {"run": run})
    return found


def minutes_of_new_steps(store: Store, since_ns: int) -> dict[str, set[int]]:
    """The minutes that steps touch which were ingested after a moment, by backend."""
    backends = store.query(
        "SELECT DISTINCT backend FROM engine_steps WHERE ingested_ns > {since:Int64}",
        {"since": since_ns},
        max_rows=EVERYTHING,
    ).rows
    return {
        backend: _minutes_of_steps(
            store, backend, "ingested_ns > {since:Int64}", {"since": since_ns}
        )
        for (backend,) in backends
    }


def minutes_naming(store: Store, backend: str, late: Iterable[Busy]) -> set[int]:
    """The minutes of steps that name one of these attempts."""
    attempts = list(late)
    found = store.query(
        "SELECT 1 FROM engine_steps WHERE backend = {backend:String} LIMIT 1", {"backend": backend}
    )
    if not attempts or not found.rows:
        return set()
    return _minutes_of_steps(
        store,
        backend,
        f"start_ns >= {{first:Int64}} AND start_ns <= {{last:Int64}} AND {_NAMING}",
        {
            "first": min(one.started_ns for one in attempts) - CLOCK_SLACK_NS,
            "last": max(one.ended_ns for one in attempts) + CLOCK_SLACK_NS,
            "ids": [one.attempt_id for one in attempts],
        },
    )


def _minutes_of_steps(
    store: Store, backend: str, where: str, params: Mapping[str, Any]
) -> set[int]:
    rows = store.query(
        f"SELECT DISTINCT intDiv(start_ns, {WINDOW_NS}) AS first,"  # noqa: S608
        f" intDiv(start_ns + duration_ns, {WINDOW_NS}) AS last FROM engine_steps"
        f" WHERE backend = {{backend:String}} AND {where}",
        {"backend": backend, **params},
        max_rows=EVERYTHING,
    ).rows
    return {minute for first, last in rows for minute in range(first, last + 1)}


def _attempts(
    store: Store, where: str, params: Mapping[str, Any], weights: Weights | None
) -> dict[str, Active]:
    which = f"backend = {{backend:String}} AND {where}"
    rows = store.query(
        f"SELECT {_ATTEMPT} FROM attempt_events WHERE {which} UNION ALL"  # noqa: S608
        f" SELECT {_ATTEMPT} FROM (SELECT {_ATTEMPT}, withdrawn FROM imported_attempts WHERE"
        f" attempt_id IN (SELECT attempt_id FROM imported_attempts WHERE {which})"
        " ORDER BY attempt_id, ingested_ns DESC LIMIT 1 BY attempt_id)"
        f" WHERE NOT withdrawn AND {which}",
        params,
        max_rows=EVERYTHING,
    )
    return {row["attempt_id"]: _active(row, weights) for row in rows.dicts()}


def _active(row: Mapping[str, Any], weights: Weights | None) -> Active:
    return Active(
        attempt_id=row["attempt_id"],
        started_ns=row["started_ns"],
        ended_ns=row["ended_ns"],
        whose=whose_of(row),
        class_fs=weights.of(row) if weights else None,
    )


def whose_of(row: Mapping[str, Any]) -> Whose:
    """The dimensions of an attempt's row."""
    return Whose(
        at_ns=row["started_ns"],
        kind=row["kind"],
        model=row["model"],
        feature=row["feature"],
        customer=row["customer"],
        owner=row["owner"],
        tokens=known_tokens(row),
    )


def _names(request: str) -> Iterator[str]:
    yield request
    name, dash, _ = request.rpartition("-")
    if dash:
        yield name


def _minutes(first_ns: int, last_ns: int, start: int, end: int) -> range:
    """The minutes of `[start, end)` that a stretch of time touches."""
    first = max(start, first_ns) // WINDOW_NS
    return range(first, min(end - 1, last_ns) // WINDOW_NS + 1)
