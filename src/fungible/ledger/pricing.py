"""Keeps the ledger priced: new attempts once, open windows again, nothing overwritten.

`reprice` is called every second by the process that owns the ledger. It looks only at what
was ingested since the last call: attempts paid by the token get a line each; of leases paid
by the hour it shares the windows that are new, still open, or touched by late attempts, late
engine steps or a new fit of what steps cost. A line is appended only where the answer differs
from the newest one known, so a call that a crash cut short is made good by the next. When the
price book itself changed, everything is looked at again.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fungible.ledger.activity import (
    Weights,
    load_weights,
    minutes_naming,
    minutes_of_new_fits,
    minutes_of_new_steps,
    refit,
    whose_of,
)
from fungible.ledger.charging import charge
from fungible.ledger.costing import HOUR_NS, WINDOW_NS, Busy, Lease
from fungible.ledger.lease_pricing import HOUR_MINUTES, price_windows
from fungible.ledger.lines import CostKey, Line, append_costs, known_costs, known_costs_of
from fungible.ledger.prices import LEAVES, PriceBook
from fungible.ledger.rollups import settle
from fungible.ledger.store import EVERYTHING, Store

CHUNK_ROWS = 20_000
RUN_MINUTES = 30
# Where little happened, longer stretches go together: a month of an idle machine in seconds.
QUIET_MINUTES = 7 * 24 * 60
QUIET_ROWS = 20_000
_COLUMNS = (
    "attempt_id, backend, started_ns, ended_ns, ingested_ns, kind, model, feature, customer,"
    f" owner, issuer, tier, region, withdrawn, {', '.join(LEAVES)}"
)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the last call came: attempts priced, newest moments of ingestion seen."""

    known_ns: int = 0
    book: str = ""
    attempts: int = 0
    attempts_ns: int = 0
    leases_ns: int = 0
    steps_ns: int = 0


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What one call looks at: rows ingested after these moments, or `anew` everything.

    `known_ns` is the call's own moment, `last_ns` that of the last one that was finished.
    """

    known_ns: int
    last_ns: int = -1
    attempts_ns: int = -1
    leases_ns: int = -1
    steps_ns: int = -1
    anew: bool = False


def reprice(store: Store, book: PriceBook, now_ns: int) -> int:
    """Bring cost and idle lines up to date; the number of lines appended.

    A book without any price says nothing, also about what was priced before.

    Args:
        store: The ledger, migrated.
        book: The prices, see `load_book`.
        now_ns: Stamped on new lines as `known_ns` (or a later moment, if it went backwards).
    """
    if not book.rows:
        return 0
    last = _progress(store)
    weights = load_weights(store)
    rules = _rules(book, weights)
    here = _present(store, last)
    anew = here is None or last.book != rules
    if here is None or anew:
        here = _everything(store)
    elif here == last:
        return 0
    settle(store)
    known = max(now_ns, last.known_ns + 2)  # one between is for lines that move
    scope = Scope(
        known_ns=known,
        last_ns=last.known_ns,
        attempts_ns=last.attempts_ns,
        leases_ns=last.leases_ns,
        steps_ns=last.steps_ns,
    )
    if anew:
        scope = Scope(known_ns=known, anew=True)
    touched = _touched_by_steps(store, scope)
    appended, late = 0, defaultdict[str, list[Busy]](list)
    for rows in _attempts(store, scope):
        appended += _price_tokens(store, book, scope, rows)
        for row in rows:
            late[row["backend"]].append(_busy(row))
    if not anew:
        for backend, attempts in late.items():
            touched[backend] |= minutes_naming(store, backend, attempts)
    appended += _price_leases(store, book, scope, weights=weights, late=late, touched=touched)
    done = msgspec.structs.replace(here, known_ns=known, book=rules)
    store.insert_rows("pricing_runs", [done])
    return appended


def _price_leases(
    store: Store,
    book: PriceBook,
    scope: Scope,
    *,
    weights: Mapping[str, Weights],
    late: Mapping[str, list[Busy]],
    touched: Mapping[str, set[int]],
) -> int:
    appended = 0
    for lease, is_new in _leases(store, scope):
        if not book.hourly(lease.backend) and not scope.anew:
            continue
        dirty = _dirty_minutes(store, lease, scope, is_new, late.get(lease.backend, []))
        dirty |= {at for at in touched.get(lease.backend, ()) if _holds(lease, at)}
        of_class = weights.get(lease.backend)
        rows = _rows_by_hour(store, lease) if len(dirty) > RUN_MINUTES else None
        for span in _spans(book, lease, dirty, rows):
            appended += price_windows(
                store, book, lease, span, known_ns=scope.known_ns, weights=of_class
            )
    return appended


def _rules(book: PriceBook, weights: Mapping[str, Weights]) -> str:
    """What decides amounts, beside what happened: prices, policies, weights of token classes."""
    if not weights:
        return book.digest
    data = msgspec.json.encode(sorted(weights.items()))
    return f"{book.digest}-{hashlib.sha256(data).hexdigest()[:16]}"


def _touched_by_steps(store: Store, scope: Scope) -> defaultdict[str, set[int]]:
    """Fit what is new; the minutes in which steps or fits are new, by backend."""
    touched = defaultdict[str, set[int]](set)
    refit(store, scope.steps_ns, scope.known_ns)
    if not scope.anew:
        for found in (
            minutes_of_new_steps(store, scope.steps_ns),
            minutes_of_new_fits(store, scope.last_ns),
        ):
            for backend, minutes in found.items():
                touched[backend] |= minutes
    return touched


def _holds(lease: Lease, minute: int) -> bool:
    return lease.started_ns // WINDOW_NS <= minute <= lease.seen_ns // WINDOW_NS


def _rows_by_hour(store: Store, lease: Lease) -> dict[int, int]:
    """How many attempts and steps a lease has in each clock hour."""
    params = {"backend": lease.backend, "start": lease.started_ns, "end": lease.seen_ns}
    found: defaultdict[int, int] = defaultdict(int)
    for table, at in (("all_attempts", "started_ns"), ("engine_steps", "start_ns")):
        rows = store.query(
            f"SELECT intDiv({at}, {HOUR_NS}) AS hour, count() FROM {table}"  # noqa: S608
            f" WHERE backend = {{backend:String}} AND {at} >= {{start:Int64}}"
            f" AND {at} < {{end:Int64}} GROUP BY hour",
            params,
            max_rows=EVERYTHING,
        )
        for hour, count in rows.rows:
            found[hour] += count
    return found


def _spans(
    book: PriceBook, lease: Lease, dirty: set[int], rows: Mapping[int, int] | None
) -> Iterator[tuple[int, int]]:
    """The stretches to price, oldest first.

    Headroom is shared by the peak of the hour before: one that changes touches the next hour.
    """
    policy = book.idle.get(lease.backend)
    if policy is None or not policy.headroom:
        yield from _runs(dirty, rows)
        return
    last = lease.seen_ns // WINDOW_NS
    by_hour: defaultdict[int, set[int]] = defaultdict(set)
    for minute in dirty:
        by_hour[minute // HOUR_MINUTES].add(minute)
    for hour in list(by_hour):
        after = range((hour + 1) * HOUR_MINUTES, min((hour + 2) * HOUR_MINUTES, last + 1))
        if after:
            by_hour[hour + 1].update(after)
    for hour in sorted(by_hour):
        yield from _runs(by_hour[hour], rows)


def _progress(store: Store) -> Progress:
    rows = store.query("SELECT * FROM pricing_runs ORDER BY known_ns DESC LIMIT 1")
    return msgspec.convert(rows.dicts()[0], Progress) if rows.rows else Progress()


def _present(store: Store, last: Progress) -> Progress | None:
    """`last`, moved on to what the ledger holds now; `None` when rows came unnoticed.

    A row is unnoticed when a clock that went back stamped it with a moment already seen. The
    total is read first, so an insert in between can't look like one.
    """
    total, _ = _ingested(store, -1)
    new, newest = _ingested(store, last.attempts_ns)
    if total - new > last.attempts:
        return None
    return msgspec.structs.replace(
        last,
        attempts=last.attempts + new,
        attempts_ns=max(newest, last.attempts_ns),
        leases_ns=_newest_lease(store),
        steps_ns=max(_newest_step(store, last.steps_ns), last.steps_ns),
    )


def _everything(store: Store) -> Progress:
    attempts, newest = _ingested(store, -1)
    return Progress(
        attempts=attempts,
        attempts_ns=newest,
        leases_ns=_newest_lease(store),
        steps_ns=_newest_step(store, -1),
    )


def _ingested(store: Store, since_ns: int) -> tuple[int, int]:
    """Rows about attempts that were ingested after a moment, and the newest such moment."""
    rows = store.query(
        "SELECT sum(n), max(newest) FROM ("
        "SELECT count() AS n, max(ingested_ns) AS newest FROM attempt_events"
        " WHERE ingested_ns > {since:Int64} UNION ALL"
        " SELECT count(), max(ingested_ns) FROM imported_attempts"
        " WHERE ingested_ns > {since:Int64})",
        {"since": since_ns},
    ).rows
    return int(rows[0][0]), int(rows[0][1])


def _newest_lease(store: Store) -> int:
    return int(store.query("SELECT max(ingested_ns) FROM leases").rows[0][0])


def _newest_step(store: Store, since_ns: int) -> int:
    rows = store.query(
        "SELECT max(ingested_ns) FROM engine_steps WHERE ingested_ns > {since:Int64}",
        {"since": since_ns},
    )
    return int(rows.rows[0][0])


def _attempts(store: Store, scope: Scope) -> Iterator[list[dict[str, Any]]]:
    """Attempts in scope, oldest first, in chunks; our own, then those put together."""
    own = "attempt_events WHERE ingested_ns > {since:Int64}"
    put = (
        f"(SELECT {_COLUMNS} FROM imported_attempts WHERE ingested_ns > {{since:Int64}}"  # noqa: S608
        " ORDER BY attempt_id, ingested_ns DESC LIMIT 1 BY attempt_id) WHERE true"
    )
    for relation, restated in ((own, False), (put, True)):
        for rows in _chunks(store, scope, relation):
            yield [row | {"restated": restated} for row in rows]


def _chunks(store: Store, scope: Scope, relation: str) -> Iterator[list[dict[str, Any]]]:
    started, attempt_id = -1, ""
    while True:
        rows = store.query(
            f"SELECT {_COLUMNS} FROM {relation}"  # noqa: S608
            " AND (started_ns, attempt_id) > ({started:Int64}, {id:String})"
            f" ORDER BY started_ns, attempt_id LIMIT {CHUNK_ROWS}",
            {"since": scope.attempts_ns, "started": started, "id": attempt_id},
        ).dicts()
        if rows:
            yield rows
        if len(rows) < CHUNK_ROWS:
            return
        started, attempt_id = rows[-1]["started_ns"], rows[-1]["attempt_id"]


def _busy(row: dict[str, Any]) -> Busy:
    return Busy(
        attempt_id=row["attempt_id"], started_ns=row["started_ns"], ended_ns=row["ended_ns"]
    )


def _price_tokens(
    store: Store, book: PriceBook, scope: Scope, rows: Sequence[dict[str, Any]]
) -> int:
    """A line for each attempt that is paid by the token; the price of its start holds."""
    lines: dict[CostKey, Line] = {}
    for row in rows:
        if line := _token_line(book, row):
            lines[row["attempt_id"], "", row["started_ns"]] = line
    restated = bool(rows) and rows[0]["restated"]
    if not lines and not scope.anew and not restated:
        return 0
    looked_at = {row["attempt_id"] for row in rows}
    if restated:
        known = known_costs_of(store, sorted(looked_at))
    else:
        known = known_costs(store, "", rows[0]["started_ns"], rows[-1]["started_ns"] + 1)
        known = {key: line for key, line in known.items() if key[0] in looked_at}
    return append_costs(store, lines, known, scope.known_ns)


def _token_line(book: PriceBook, row: dict[str, Any]) -> Line | None:
    found = "withdrawn" if row["withdrawn"] else charge(book, row)
    if isinstance(found, str):
        return None
    return Line(
        backend=row["backend"],
        units=found.units,
        currency=found.currency,
        basis="contracted",
        rule="tokens",
        issuer=found.issuer,
        parts=found.by_sku(),
        source=found.source(),
        whose=whose_of(row),
    )


def _leases(store: Store, scope: Scope) -> Iterator[tuple[Lease, bool]]:
    """Every lease at its last heartbeat, and whether that is news."""
    rows = store.query(
        "SELECT lease_id, any(l.backend), min(l.started_ns) AS start, max(l.seen_ns),"
        " max(l.ingested_ns) > {since:Int64}"
        " FROM leases AS l GROUP BY lease_id ORDER BY start, lease_id",
        {"since": scope.leases_ns},
        max_rows=EVERYTHING,
    )
    for lease_id, backend, started, seen, is_new in rows.rows:
        lease = Lease(lease_id=lease_id, backend=backend, started_ns=started, seen_ns=seen)
        yield lease, bool(is_new)


def _dirty_minutes(
    store: Store, lease: Lease, scope: Scope, is_new: bool, late: Iterable[Busy]
) -> set[int]:
    """Minutes of the epoch in which a window of the lease may have changed."""
    first, last = lease.started_ns // WINDOW_NS, lease.seen_ns // WINDOW_NS
    if scope.anew:
        return set(range(first, last + 1))
    dirty: set[int] = set()
    if is_new:
        rows = store.query(
            "SELECT max(window_start_ns) FROM idle_lines WHERE lease_id = {lease:String}",
            {"lease": lease.lease_id},
        )
        dirty.update(range(max(first, rows.rows[0][0] // WINDOW_NS), last + 1))
    for busy in late:
        begin = max(first, busy.started_ns // WINDOW_NS)
        dirty.update(range(begin, min(last, busy.ended_ns // WINDOW_NS) + 1))
    return dirty


def _runs(minutes: set[int], rows: Mapping[int, int] | None) -> Iterator[tuple[int, int]]:
    """Neighbouring minutes together, as `[start, end)` in ns.

    `RUN_MINUTES` of them at most, or `QUIET_MINUTES` while no more than `QUIET_ROWS` are in them.
    """
    begin = before = -1
    held = 0
    for minute in sorted(minutes):
        hour, length = minute // HOUR_MINUTES, minute - begin
        here = rows.get(hour, 0) if rows and (begin < 0 or hour != before // HOUR_MINUTES) else 0
        longer = rows is not None and length < QUIET_MINUTES and held + here <= QUIET_ROWS
        if begin >= 0 and minute == before + 1 and (length < RUN_MINUTES or longer):
            held += here
        else:
            if begin >= 0:
                yield begin * WINDOW_NS, (before + 1) * WINDOW_NS
            begin, held = minute, rows.get(hour, 0) if rows else 0
        before = minute
    if begin >= 0:
        yield begin * WINDOW_NS, (before + 1) * WINDOW_NS
