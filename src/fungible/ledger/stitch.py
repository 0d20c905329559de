"""Keeps `imported_attempts` up to date with the facts that arrived: responses, spans, machines.

`stitch` is called by the process that owns the ledger, before pricing. It looks at facts that
were ingested since the last call and at those that share a key with them, and at facts about
attempts of our own that came since, so the result depends on the set of facts and attempts
alone, not on their order. A row is appended only where it says
something new, so a call that a crash cut short is made good by the next.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fungible.contract.streams import Observed
from fungible.ledger.joining import Fact, Row, attempt_id_of, join, keys_of
from fungible.ledger.moved import CALLS, calls_to_look_at, newest_observation
from fungible.ledger.own_calls import LOOKUP_KEYS, facts_of_new, own_calls
from fungible.ledger.store import EVERYTHING, Store
from fungible.ledger.whereabouts import load_whereabouts

CHUNK_FACTS = 20_000
_BACK_NS = 600_000_000_000  # how far to look again when the clock went back
_UNUSED = ("stated_cost", "stated_currency")
_LINKED = ("digest", "source", "response_id", "trace_id", "span_id")
_COLUMNS = [name for name in Observed.__struct_fields__ if name not in _UNUSED]
_SELECT = {
    "responses": f"SELECT {', '.join(_COLUMNS)}, '' AS parent_span_id FROM responses",  # noqa: S608
    "spans": f"SELECT {', '.join(_COLUMNS)}, parent_span_id FROM spans",  # noqa: S608
}
_COUNTED = "SELECT ingested_ns, count() AS n FROM {} WHERE {} GROUP BY ingested_ns"
Params = Mapping[str, Any]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Newest moments of ingestion that were seen, and when that was noted."""

    at_ns: int = 0
    facts_ns: int = 0
    infra_ns: int = 0
    attempts_ns: int = 0


def stitch(store: Store, now_ns: int) -> int:
    """Bring attempts up to date; the number of rows appended.

    Args:
        store: The ledger, migrated.
        now_ns: Stamped on new rows, or a later moment if it went backwards.
    """
    last = _progress(store)
    appended = 0
    if not last.facts_ns:
        # Whatever facts come first are compared with all attempts there are.
        last = msgspec.structs.replace(last, attempts_ns=_newest_attempt(store))
    for span in _chunks(store, ("responses", "spans"), _since(last.facts_ns, now_ns)):
        appended += _Batch(store).run(*_fresh(*span), max(now_ns, last.at_ns + 1))
        last = _note(store, last, facts_ns=max(last.facts_ns, span[1]))
        now_ns = time.time_ns()
    if last.facts_ns:
        for span in _chunks(store, ("attempt_events",), _since(last.attempts_ns, now_ns)):
            if about := facts_of_new(store, *span):
                appended += _Batch(store).run(*about, max(now_ns, last.at_ns + 1))
            last = _note(store, last, attempts_ns=max(last.attempts_ns, span[1]))
            now_ns = time.time_ns()
    since = _since(last.infra_ns, now_ns)
    if newest := newest_observation(store, since):
        for part in _pieces(store, calls_to_look_at(store, since)):
            appended += _Batch(store).run(*part, max(now_ns, last.at_ns + 1))
            last = _note(store, last)
        _note(store, last, infra_ns=newest)
    return appended


def _progress(store: Store) -> Progress:
    rows = store.query("SELECT * FROM stitch_runs ORDER BY at_ns DESC LIMIT 1")
    return msgspec.convert(rows.dicts()[0], Progress) if rows.rows else Progress()


def _note(store: Store, last: Progress, **changes: int) -> Progress:
    at = max(time.time_ns(), last.at_ns + 1)
    done = msgspec.structs.replace(last, at_ns=at, **changes)
    store.insert_rows("stitch_runs", [done])
    return done


def _since(seen_ns: int, now_ns: int) -> int:
    return seen_ns if seen_ns <= now_ns else min(seen_ns, now_ns - _BACK_NS)


def _newest_attempt(store: Store) -> int:
    return int(store.query("SELECT max(ingested_ns) FROM attempt_events").rows[0][0])


def _chunks(store: Store, tables: Sequence[str], since_ns: int) -> Iterator[tuple[int, int]]:
    """Moments `(after, until]` with about `CHUNK_FACTS` new rows of these tables each."""
    counted = [_COUNTED.format(table, "ingested_ns > {since:Int64}") for table in tables]
    rows = store.query(
        f"SELECT ingested_ns, sum(n) FROM ({' UNION ALL '.join(counted)})"  # noqa: S608
        " GROUP BY ingested_ns ORDER BY ingested_ns",
        {"since": since_ns},
        max_rows=EVERYTHING,
    ).rows
    after, held = since_ns, 0
    for at, (moment, count) in enumerate(rows):
        held += count
        if held >= CHUNK_FACTS or at == len(rows) - 1:
            yield after, moment
            after, held = moment, 0


def _fresh(after: int, until: int) -> tuple[str, Params]:
    condition = "ingested_ns > {after:Int64} AND ingested_ns <= {until:Int64}"
    return condition, {"after": after, "until": until}


class _Batch:
    """One set of facts with everything that belongs to the same attempts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._facts: dict[tuple[str, str, str, str, bool], Fact] = {}

    def run(self, condition: str, params: Params, at_ns: int) -> int:
        """Put the facts that meet a condition together; the number of rows appended."""
        first = self._take(self._select(condition, params))
        if not first:
            return 0
        fresh = self._take(self._select(f"{_near(condition)} AND NOT ({condition})", params))
        while fresh:
            fresh = self._take(self._neighbours(fresh))
        facts = list(self._facts.values())
        joined = join(facts, self._whereabouts(facts), own_calls(self._store, facts))
        before = self._rows(f"attempt_id IN ({_own_ids(condition)})", params)
        asked = {attempt_id_of(key) for fact in first for key in keys_of(fact)}
        before |= self._known(joined.candidates - asked)
        self._link(joined.own, at_ns)
        return self._append(joined.rows, before, at_ns)

    def _link(self, own: Sequence[tuple[Fact, str]], at_ns: int) -> None:
        """Say which facts made no attempt, because they are about one of ours."""
        rows = [
            {name: fact[name] for name in _LINKED}
            | {"stream": "traces" if fact["is_span"] else "responses"}
            | {"attempt_id": attempt_id, "at_ns": at_ns}
            for fact, attempt_id in own
        ]
        self._store.insert_rows("own_call_facts", rows)

    def _take(self, found: Iterator[Fact]) -> list[Fact]:
        """Those that are new here."""
        new = []
        for fact in found:
            key = (
                fact["response_id"],
                fact["trace_id"],
                fact["span_id"],
                fact["digest"],
                fact["is_span"],
            )
            if key not in self._facts:
                self._facts[key] = fact
                new.append(fact)
        return new

    def _select(self, condition: str, params: Params) -> Iterator[Fact]:
        for table in ("responses", "spans"):
            where = _in(table, condition)
            rows = self._store.query(f"{_SELECT[table]} WHERE {where}", params, max_rows=EVERYTHING)
            for row in rows.dicts():
                row["is_span"] = table == "spans"
                yield row

    def _neighbours(self, facts: Sequence[Fact]) -> Iterator[Fact]:
        """Facts that share a key or a parent with these."""
        for at in range(0, len(facts), LOOKUP_KEYS):
            part = facts[at : at + LOOKUP_KEYS]
            ids = sorted({fact["response_id"] for fact in part} - {""})
            if ids:
                yield from self._select("response_id IN {ids:Array(String)}", {"ids": ids})
            spans = {fact["span_id"] for fact in part} | {fact["parent_span_id"] for fact in part}
            params = {
                "traces": sorted({fact["trace_id"] for fact in part} - {""}),
                "spans": sorted(spans - {""}),
            }
            if params["traces"] and params["spans"]:
                yield from self._select(_OF_SPANS, params)

    def _whereabouts(self, facts: Sequence[Fact]) -> Any:  # noqa: ANN401
        moments = [at for fact in facts if (at := fact["ended_ns"] or fact["started_ns"])]
        return load_whereabouts(
            self._store,
            {fact["resource"] for fact in facts},
            {fact["server"] for fact in facts},
            (min(moments, default=0), max(moments, default=0)),
        ).locate

    def _append(self, rows: list[Row], before: dict[str, Row], at_ns: int) -> int:
        new = []
        for row in rows:
            held = before.pop(row["attempt_id"], None)
            if held is None or any(held[name] != value for name, value in row.items()):
                new.append(row | {"ingested_ns": at_ns})
        gone = {"withdrawn": True, "ingested_ns": at_ns}
        new += [held | gone for held in before.values() if not held["withdrawn"]]
        self._store.insert_rows("imported_attempts", new)
        return len(new)

    def _known(self, ids: set[str]) -> dict[str, Row]:
        ordered = sorted(ids)
        found: dict[str, Row] = {}
        for at in range(0, len(ordered), LOOKUP_KEYS):
            part = {"ids": ordered[at : at + LOOKUP_KEYS]}
            found |= self._rows("attempt_id IN {ids:Array(String)}", part)
        return found

    def _rows(self, condition: str, params: Params) -> dict[str, Row]:
        """The newest row of each attempt that meets a condition."""
        rows = self._store.query(
            f"SELECT * FROM imported_attempts WHERE {condition}"  # noqa: S608
            " ORDER BY attempt_id, ingested_ns DESC LIMIT 1 BY attempt_id",
            params,
            max_rows=EVERYTHING,
        )
        return {row["attempt_id"]: row for row in rows.dicts()}


_OF_SPANS = (
    "trace_id IN {traces:Array(String)} AND"
    " (span_id IN {spans:Array(String)} OR parent_span_id IN {spans:Array(String)})"
)


def _in(table: str, condition: str) -> str:
    """A condition on facts in the words of one table: responses have no parents."""
    return condition if table == "spans" else condition.replace("parent_span_id", "''")


def _near(condition: str) -> str:
    """Facts one step away from those that meet a condition, found inside the engine."""

    def said(columns: str) -> str:
        return (
            f"SELECT {columns} FROM responses WHERE {_in('responses', condition)}"  # noqa: S608
            " UNION DISTINCT"
            f" SELECT {columns} FROM spans WHERE {condition}"
        )

    ids = f"SELECT response_id FROM ({said('response_id')}) WHERE response_id != ''"  # noqa: S608
    keys = f"SELECT trace_id, span_id FROM ({said('trace_id, span_id')})"  # noqa: S608
    spans = f"{keys} WHERE span_id != ''"
    parents = "SELECT trace_id, parent_span_id FROM spans"
    ups = f"{parents} WHERE parent_span_id != '' AND ({condition})"
    return (
        f"(response_id IN ({ids}) OR (trace_id, span_id) IN ({spans})"
        f" OR (trace_id, span_id) IN ({ups}) OR (trace_id, parent_span_id) IN ({spans}))"
    )


def _own_ids(condition: str) -> str:
    """Ids that attempts of these facts could have: `attempt_id_of`, inside the engine."""
    ids = []
    for parts in ("'\\0\\0', response_id", "trace_id, '\\0', span_id, '\\0'"):
        digest = f"substring(lower(hex(SHA256(concat({parts})))), 1, 28)"
        for table in ("responses", "spans"):
            where = _in(table, condition)
            ids.append(f"SELECT concat('imp_', {digest}) FROM {table} WHERE {where}")  # noqa: S608
    return " UNION ALL ".join(ids)


def _pieces(store: Store, params: Params | None) -> Iterator[tuple[str, Params]]:
    """The calls to look at again, about `CHUNK_FACTS` at a time."""
    if params is None:
        return
    minute = "intDiv(if(ended_ns = 0, started_ns, ended_ns), 60000000000)"
    counted = f"SELECT {minute} AS minute, count() AS n"
    rows = store.query(
        "SELECT minute, sum(n) FROM"  # noqa: S608
        f" ({counted} FROM responses WHERE {CALLS} GROUP BY minute UNION ALL"
        f" {counted} FROM spans WHERE {CALLS} GROUP BY minute)"
        " GROUP BY minute ORDER BY minute",
        params,
        max_rows=EVERYTHING,
    ).rows
    part = f"{CALLS} AND {minute} >= {{low:Int64}} AND {minute} <= {{high:Int64}}"
    low, held = None, 0
    for at, (begin, count) in enumerate(rows):
        low = begin if low is None else low
        held += count
        if held >= CHUNK_FACTS or at == len(rows) - 1:
            yield part, {**params, "low": low, "high": begin}
            low, held = None, 0
