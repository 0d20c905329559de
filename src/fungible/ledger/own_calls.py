"""Which facts from elsewhere are about attempts of our own gateway: those count already.

An attempt is known by the upstream's response id, by the client's span (`traceparent`), and by
its own ids: answers that the gateway translates carry the request's in theirs, and upstreams that
name answers after `X-Request-Id` carry the attempt's. Nothing is concluded from times or models.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fungible.ledger.joining import Fact
from fungible.ledger.store import EVERYTHING, Store

LOOKUP_KEYS = 20_000
# How much later than here the clock of a gateway may be.
_SKEW_NS = 600_000_000_000
_OURS = re.compile("(?:att|req)_[0-9a-f]{32}")
_NEW = "ingested_ns > {after:Int64} AND ingested_ns <= {until:Int64}"

# Key -> attempt id
Found = dict[Any, str]


def own_calls(store: Store, facts: Sequence[Fact]) -> Callable[[Fact], str]:
    """The id of the attempt of our own that a fact is about, or nothing.

    Where a request had several attempts, it is the last one, one that succeeded before others.
    """
    names = {name for fact in facts for name in _ours(fact)}
    responses = _known(store, "response_id", {fact["response_id"] for fact in facts})
    attempts = _known(store, "attempt_id", {name for name in names if name.startswith("att_")})
    requests = _known(store, "request_id", {name for name in names if name.startswith("req_")})
    spans = _known_spans(store, {(fact["trace_id"], fact["span_id"]) for fact in facts})

    def own(fact: Fact) -> str:
        inside = (attempts.get(name) or requests.get(name) for name in _ours(fact))
        return (
            responses.get(fact["response_id"])
            or next((one for one in inside if one), "")
            or spans.get((fact["trace_id"], fact["span_id"]), "")
        )

    return own


def facts_of_new(store: Store, after: int, until: int) -> tuple[str, Mapping[str, Any]] | None:
    """Which facts are about own attempts that came in `(after, until]`; `None`: none are.

    Returns:
        A condition on facts with its parameters.
    """
    new: dict[str, Any] = {"after": after, "until": until}
    earliest = store.query(f"SELECT min(started_ns) FROM attempt_events WHERE {_NEW}", new)  # noqa: S608
    # Nobody can tell of a call before it was made: that spares reading older facts.
    params = new | {"first": earliest.rows[0][0] - _SKEW_NS}
    of_new = f"FROM attempt_events WHERE {_NEW}"
    names = f"SELECT attempt_id {of_new} UNION ALL SELECT request_id {of_new}"
    condition = (
        "ingested_ns > {first:Int64}"
        f" AND (response_id IN (SELECT response_id {of_new} AND response_id != '')"
        f" OR (trace_id, span_id) IN (SELECT trace_id, span_id {of_new} AND span_id != '')"
        f" OR extract(response_id, '{_OURS.pattern}') IN ({names})"
        f" OR extract(request_id, '{_OURS.pattern}') IN ({names}))"
    )
    for table in ("responses", "spans"):
        if store.query(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1", params).rows:  # noqa: S608
            return condition, params
    return None


def _ours(fact: Fact) -> list[str]:
    """Ids that a gateway of this kind gave."""
    found = (_OURS.search(fact[name]) for name in ("response_id", "request_id"))
    return [one[0] for one in found if one]


def _known(store: Store, column: str, wanted: set[str]) -> Found:
    found: Found = {}
    for part in _parts(wanted - {""}):
        found |= dict(_ask(store, column, f"{column} IN {{wanted:Array(String)}}", wanted=part))
    return found


def _known_spans(store: Store, wanted: set[tuple[str, str]]) -> Found:
    found: Found = {}
    for part in _parts({(trace, span) for trace, span in wanted if trace and span}):
        traces, spans = (sorted(set(ids)) for ids in zip(*part, strict=True))
        condition = "trace_id IN {traces:Array(String)} AND span_id IN {spans:Array(String)}"
        found |= dict(_ask(store, "(trace_id, span_id)", condition, traces=traces, spans=spans))
    return found


def _ask(store: Store, key: str, condition: str, **params: object) -> Iterable[tuple[Any, str]]:
    rows = store.query(
        f"SELECT {key} AS known, argMax(attempt_id, (status = 'ok', ended_ns))"  # noqa: S608
        f" FROM attempt_events WHERE {condition} GROUP BY known",
        params,
        max_rows=EVERYTHING,
    ).rows
    return ((known, str(attempt)) for known, attempt in rows)


def _parts(wanted: set[Any]) -> Iterable[list[Any]]:
    ordered = sorted(wanted)
    return (ordered[at : at + LOOKUP_KEYS] for at in range(0, len(ordered), LOOKUP_KEYS))
