"""Which calls may have gone elsewhere than was thought, after new facts about machines."""

from collections.abc import Mapping
from typing import Any

from fungible.ledger.store import EVERYTHING, Store

_FOREVER = (1 << 63) - 1
_HOPS = 4
_SAYS = (
    "cityHash64(kind, parent, backend, accelerator, region, arraySort(addresses),"
    " mapSort(labels), started_ns, ended_ns)"
)
_STEADY = "cityHash64(arraySort(addresses), started_ns, ended_ns)"
# Of each machine that was observed anew: since when, what its observations say, and what the
# one before them said; snapshots that repeat what was known change nothing.
_NEW = f"""
SELECT n.resource, n.low, n.says, n.steady,
    countIf(i.observed_ns < n.low) AS earlier,
    argMaxIf(i.says, i.observed_ns, i.observed_ns < n.low) AS said,
    argMaxIf(i.steady, i.observed_ns, i.observed_ns < n.low) AS was_steady,
    minIf(i.observed_ns, i.observed_ns > n.high) AS next
FROM
(
    SELECT provider, resource, min(observed_ns) AS low, max(observed_ns) AS high,
        groupUniqArray({_SAYS}) AS says, groupUniqArray({_STEADY}) AS steady
    FROM infra WHERE ingested_ns > {{since:Int64}} GROUP BY provider, resource
) AS n
INNER JOIN
(
    SELECT provider, resource, observed_ns, {_SAYS} AS says, {_STEADY} AS steady FROM infra
    WHERE (provider, resource) IN
        (SELECT provider, resource FROM infra WHERE ingested_ns > {{since:Int64}})
) AS i ON i.provider = n.provider AND i.resource = n.resource
GROUP BY n.provider, n.resource, n.low, n.says, n.steady
"""  # noqa: S608
# Facts about calls to these machines in a span of time.
CALLS = (
    "(resource IN {resources:Array(String)} OR lower(server) IN {addresses:Array(String)}"
    " OR trimBoth(replaceRegexpOne(lower(server), ':[0-9]+$', ''), '[]')"
    " IN {addresses:Array(String)})"
    " AND if(ended_ns = 0, started_ns, ended_ns) >= {first:Int64}"
    " AND if(ended_ns = 0, started_ns, ended_ns) < {last:Int64}"
)


def newest_observation(store: Store, since_ns: int) -> int:
    """When the newest fact about a machine was ingested, if that is after `since_ns`; or 0."""
    rows = store.query(
        "SELECT max(ingested_ns) FROM infra WHERE ingested_ns > {since:Int64}", {"since": since_ns}
    )
    return int(rows.rows[0][0])


def calls_to_look_at(store: Store, since_ns: int) -> Mapping[str, Any] | None:
    """Parameters of `CALLS` for what was ingested after `since_ns`; `None`: nothing changed."""
    rows = store.query(_NEW, {"since": since_ns}, max_rows=EVERYTHING).dicts()
    resources: set[str] = set()
    first, last = _FOREVER, 0
    for row in rows:
        if row["earlier"] and row["says"] == [row["said"]]:
            continue
        resources.add(row["resource"])
        steady = row["earlier"] and row["steady"] == [row["was_steady"]]
        first = min(first, row["low"] if steady else 0)
        last = max(last, row["next"] or _FOREVER)
    if not resources:
        return None
    resources |= _below(store, resources)
    addresses = store.query(
        "SELECT DISTINCT lower(arrayJoin(addresses)) FROM infra"
        " WHERE resource IN {names:Array(String)}",
        {"names": sorted(resources)},
        max_rows=EVERYTHING,
    ).rows
    return {
        "resources": sorted(resources - {""}),
        "addresses": sorted(row[0] for row in addresses if row[0]),
        "first": first,
        "last": last,
    }


def _below(store: Store, resources: set[str]) -> set[str]:
    """What runs on these machines."""
    found: set[str] = set()
    level = set(resources)
    for _ in range(_HOPS):
        if not level:
            break
        rows = store.query(
            "SELECT DISTINCT resource FROM infra WHERE parent IN {names:Array(String)}",
            {"names": sorted(level)},
            max_rows=EVERYTHING,
        ).rows
        level = {row[0] for row in rows} - found - resources
        found |= level
    return found
