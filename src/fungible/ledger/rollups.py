"""The sums by hour, day and minute: how they are read, and how they are made whole.

`usage` is SQL for a relation that adds up to exactly what the attempts since a moment used and
cost: rollup rows from the first whole hour (day, minute) on, rows one by one before it, and
the attempts that were put together from elsewhere, which rollups do not hold.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from fungible.ledger.store import Store

S = 1_000_000_000
MEASURES = (
    *("attempts", "requests", "errors", "input_tokens", "output_tokens"),
    *("amount", "priced", "priced_tokens"),
)
_OF_MONEY = ("currency", "basis")


class Rollup(msgspec.Struct, frozen=True, kw_only=True):
    """One table of sums: the length of its periods in seconds, and what it sums by."""

    table: str
    period: str
    seconds: int
    dimensions: tuple[str, ...]


USAGE_HOURS = Rollup(
    table="usage_hours",
    period="hour",
    seconds=3600,
    dimensions=("kind", "owner", "feature", "backend", "model"),
)
CUSTOMER_HOURS = Rollup(
    table="customer_hours",
    period="hour",
    seconds=3600,
    dimensions=("kind", "customer", "feature"),
)
CUSTOMER_DAYS = Rollup(
    table="customer_days",
    period="day",
    seconds=86_400,
    dimensions=("kind", "customer", "feature"),
)
BACKEND_MINUTES = Rollup(
    table="backend_minutes",
    period="minute",
    seconds=60,
    dimensions=("kind", "backend", "model"),
)
ROLLUPS = (USAGE_HOURS, CUSTOMER_HOURS, CUSTOMER_DAYS, BACKEND_MINUTES)

_ATTEMPT = """
    1 AS attempts, toInt64(e.attempt_no = 0) AS requests,
    toInt64(e.status IN ('error', 'interrupted')) AS errors,
    ifNull(e.in_uncached + e.in_cache_read + e.in_cache_write, 0) AS input_tokens,
    ifNull(e.out_visible + e.out_reasoning, 0) AS output_tokens,
    toDecimal128(0, 18) AS amount, 0 AS priced, 0 AS priced_tokens"""
_LINE = """
    0 AS attempts, 0 AS requests, 0 AS errors, 0 AS input_tokens, 0 AS output_tokens,
    l.delta AS amount, toInt64(l.priced) AS priced, l.priced * l.tokens AS priced_tokens"""
# The newest row of each attempt of which any row began in time; then those that still did.
_IMPORTED = """(
    SELECT * FROM imported_attempts
    WHERE attempt_id IN
        (SELECT attempt_id FROM imported_attempts WHERE started_ns >= {since:Int64})
    ORDER BY attempt_id, ingested_ns DESC LIMIT 1 BY attempt_id
)"""
_PERIODS = {
    "minute": "toStartOfMinute(fromUnixTimestamp64Nano(l.at_ns, 'UTC'))",
    "hour": "toStartOfHour(fromUnixTimestamp64Nano(l.at_ns, 'UTC'))",
    "day": "toDate(fromUnixTimestamp64Nano(l.at_ns, 'UTC'))",
}


def usage(rollup: Rollup, dimensions: Sequence[str]) -> str:
    """A relation with columns `dimensions`, `currency`, `basis` and `MEASURES`, to be summed.

    Rows about attempts have an empty currency and basis; rows about money have no attempts.
    Its parameters are those of `since`.
    """
    assert set(dimensions) <= set(rollup.dimensions)  # noqa: S101  # callers name constants
    names = ", ".join((*dimensions, *_OF_MONEY, *MEASURES))
    at_e = "".join(f"e.{name} AS {name}, " for name in dimensions)
    at_l = "".join(f"l.{name} AS {name}, " for name in dimensions)
    plain = f"{at_e}'' AS currency, '' AS basis, {_ATTEMPT}"
    return f"""(
    SELECT {names} FROM {rollup.table}
    WHERE {rollup.period} >= toDateTime({{edge:Int64}}, 'UTC')
    UNION ALL
    SELECT {plain} FROM attempt_events AS e
    WHERE e.started_ns >= {{since:Int64}} AND e.started_ns < {{edge:Int64}} * 1000000000
    UNION ALL
    SELECT {at_l}l.currency AS currency, l.basis AS basis, {_LINE} FROM cost_lines AS l
    WHERE l.at_ns >= {{since:Int64}} AND l.at_ns < {{edge:Int64}} * 1000000000
    UNION ALL
    SELECT {plain} FROM {_IMPORTED} AS e WHERE e.started_ns >= {{since:Int64}} AND NOT e.withdrawn
)"""  # noqa: S608


def since(rollup: Rollup, since_ns: int) -> dict[str, Any]:
    """Parameters of `usage`: the moment, and where the first whole period begins (in seconds)."""
    edge = -(-since_ns // (rollup.seconds * S)) * rollup.seconds
    return {"since": since_ns, "edge": edge}


def settle(store: Store) -> list[str]:
    """Make the money in the rollups what the cost lines say; the rollups that were not whole.

    A crash can come between lines and their sums: lines are written once, so nobody would
    write the sums again. What is missing is appended. (Attempts need no such care: their
    segment is shipped again, and every table drops what it has.)
    """
    total = int(store.query("SELECT count() FROM cost_lines").rows[0][0])
    found = []
    for rollup in ROLLUPS:
        summed = store.query(f"SELECT sum(r.lines) FROM {rollup.table} AS r").rows[0][0]  # noqa: S608
        if int(summed) != total:
            store.command(_difference(rollup))
            found.append(rollup.table)
    return found


def _difference(rollup: Rollup) -> str:
    keys = ", ".join((rollup.period, *rollup.dimensions, *_OF_MONEY))
    unattributed = rollup is BACKEND_MINUTES
    sums = ["amount", "priced", "priced_tokens", "lines", *(["unattributed"] * unattributed)]
    at_l = "".join(f"l.{name} AS {name}, " for name in (*rollup.dimensions, *_OF_MONEY))
    part = ", if(l.kind = 'serve' AND (l.feature = '' OR l.customer = ''), l.delta, 0)"
    return f"""
INSERT INTO {rollup.table} ({keys}, {", ".join(sums)})
SELECT {keys}, {", ".join(f"sum(d.{name})" for name in sums)}
FROM
(
    SELECT {_PERIODS[rollup.period]} AS {rollup.period}, {at_l}l.delta AS amount,
        toInt64(l.priced) AS priced, l.priced * l.tokens AS priced_tokens, 1 AS lines
        {f"{part} AS unattributed" if unattributed else ""}
    FROM cost_lines AS l
    UNION ALL
    SELECT {keys}, {", ".join(f"-r.{name}" for name in sums)} FROM {rollup.table} AS r
    WHERE r.lines != 0
) AS d
GROUP BY {keys}
HAVING sum(d.lines) != 0
"""  # noqa: S608
