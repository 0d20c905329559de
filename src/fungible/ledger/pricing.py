"""Keeps the ledger priced: new attempts once, open windows again, nothing overwritten.

`reprice` is called every second by the process that owns the ledger. It looks only at what
was ingested since the last call: attempts paid by the token get a line each; of leases paid
by the hour it shares the windows that are new, still open, or touched by late attempts. A
line is appended only where the answer differs from the newest one known, so a call that a
crash cut short is made good by the next. When the price book itself changed, everything is
looked at again.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from fungible.ledger.costing import WINDOW_NS, Busy, Lease, Window, share, token_parts, windows
from fungible.ledger.lines import (
    CostKey,
    IdleKey,
    Line,
    Whose,
    append_costs,
    append_idle,
    known_costs,
    known_costs_of,
    known_idle,
)
from fungible.ledger.prices import LEAVES, PriceBook
from fungible.ledger.store import EVERYTHING, Store

CHUNK_ROWS = 20_000
RUN_MINUTES = 30
_COLUMNS = (
    "attempt_id, backend, started_ns, ended_ns, ingested_ns, kind, model, feature, customer,"
    f" owner, withdrawn, {', '.join(LEAVES)}"
)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the last call came: attempts priced, newest moments of ingestion seen."""

    known_ns: int = 0
    book: str = ""
    attempts: int = 0
    attempts_ns: int = 0
    leases_ns: int = 0


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What one call looks at: rows ingested after these moments, or `anew` everything."""

    known_ns: int
    attempts_ns: int = -1
    leases_ns: int = -1
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
    here = _present(store, last)
    anew = here is None or last.book != book.digest
    if here is None or anew:
        here = _everything(store)
    elif here == last:
        return 0
    known = max(now_ns, last.known_ns + 2)  # one between is for lines that move
    scope = Scope(known_ns=known, attempts_ns=last.attempts_ns, leases_ns=last.leases_ns)
    if anew:
        scope = Scope(known_ns=known, anew=True)
    appended, late = 0, defaultdict[str, list[Busy]](list)
    for rows in _attempts(store, scope):
        appended += _price_tokens(store, book, scope, rows)
        for row in rows:
            late[row["backend"]].append(_busy(row))
    for lease, is_new in _leases(store, scope):
        dirty = _dirty_minutes(store, lease, scope, is_new, late[lease.backend])
        for span in _runs(dirty):
            appended += _price_windows(store, book, scope, lease, span)
    done = msgspec.structs.replace(here, known_ns=known, book=book.digest)
    store.insert_rows("pricing_runs", [done])
    return appended


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
    )


def _everything(store: Store) -> Progress:
    attempts, newest = _ingested(store, -1)
    return Progress(attempts=attempts, attempts_ns=newest, leases_ns=_newest_lease(store))


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
    prices = book.tokens(row["backend"], row["started_ns"])
    parts = None if row["withdrawn"] else token_parts(row, prices)
    if parts is None:
        return None
    used = [prices[leaf] for leaf in parts] or list(prices.values())
    return Line(
        backend=row["backend"],
        units=sum(parts.values()),
        currency=used[0].currency,
        basis="contracted",
        rule="tokens",
        parts=parts,
        source=" ".join(dict.fromkeys(price.where for price in used)),
        whose=_whose(row),
    )


def _whose(row: dict[str, Any]) -> Whose:
    return Whose(
        at_ns=row["started_ns"],
        kind=row["kind"],
        model=row["model"],
        feature=row["feature"],
        customer=row["customer"],
        owner=row["owner"],
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


def _runs(minutes: set[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring minutes together, at most `RUN_MINUTES`, as `[start, end)` in ns."""
    ordered = sorted(minutes)
    begin = 0
    for at in range(1, len(ordered) + 1):
        together = (
            at < len(ordered) and ordered[at] == ordered[at - 1] + 1 and at - begin < RUN_MINUTES
        )
        if not together:
            yield ordered[begin] * WINDOW_NS, (ordered[at - 1] + 1) * WINDOW_NS
            begin = at


def _price_windows(
    store: Store, book: PriceBook, scope: Scope, lease: Lease, span: tuple[int, int]
) -> int:
    """Share the windows of a lease that begin in `span`."""
    start, end = span
    prices = book.hourly(lease.backend)
    if not prices and not scope.anew:
        return 0
    by_minute, whose = _attempts_by_minute(store, lease.backend, start, end)
    costs: dict[CostKey, Line] = {}
    idle: dict[IdleKey, Line] = {}
    for window in windows(lease, prices, start, end):
        shares = share(window, by_minute[window.start_ns // WINDOW_NS])
        idle[lease.lease_id, window.start_ns] = _hour_line(lease, window, shares.idle)
        for attempt_id, units in shares.attempts.items():
            line = _hour_line(lease, window, units)
            line = msgspec.structs.replace(line, end_ns=0, rule="time", whose=whose[attempt_id])
            costs[attempt_id, lease.lease_id, window.start_ns] = line
    before = known_costs(store, lease.lease_id, start, end)
    appended = append_costs(store, costs, before, scope.known_ns)
    before_idle = known_idle(store, lease.lease_id, start, end)
    return appended + append_idle(store, idle, before_idle, scope.known_ns)


def _hour_line(lease: Lease, window: Window, units: int) -> Line:
    return Line(
        backend=lease.backend,
        units=units,
        currency=window.price.currency,
        basis="effective",
        source=window.price.where,
        end_ns=window.end_ns,
    )


def _attempts_by_minute(
    store: Store, backend: str, start: int, end: int
) -> tuple[defaultdict[int, list[Busy]], dict[str, Whose]]:
    """Attempts that touch `[start, end)`, under each minute that they touch; and whose they are."""
    touches = (
        "backend = {backend:String} AND started_ns < {end:Int64} AND ended_ns >= {start:Int64}"
    )
    rows = store.query(
        f"SELECT {_COLUMNS} FROM attempt_events WHERE {touches} UNION ALL"  # noqa: S608
        f" SELECT {_COLUMNS} FROM (SELECT {_COLUMNS} FROM imported_attempts WHERE attempt_id IN"
        f" (SELECT attempt_id FROM imported_attempts WHERE {touches})"
        " ORDER BY attempt_id, ingested_ns DESC LIMIT 1 BY attempt_id)"
        f" WHERE NOT withdrawn AND {touches}",
        {"backend": backend, "start": start, "end": end},
        max_rows=EVERYTHING,
    )
    found: defaultdict[int, list[Busy]] = defaultdict(list)
    whose: dict[str, Whose] = {}
    for row in rows.dicts():
        busy = _busy(row)
        whose[busy.attempt_id] = _whose(row)
        first = max(start, busy.started_ns) // WINDOW_NS
        last = min(end - 1, max(busy.started_ns, busy.ended_ns)) // WINDOW_NS
        for minute in range(first, last + 1):
            found[minute].append(busy)
    return found, whose
