"""Which lines make an attempt a priced one: counted as they are written, so that sums are right.

An attempt has one line per lease and window that it touched, and is priced while any of them
holds. The line that makes it so carries 1, the one that ends it -1, all others 0.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fungible.ledger.store import EVERYTHING, Store

# One attempt in one group of the sums; an attempt that moves between groups leaves the first.
_GROUP = (
    *("attempt_id", "at_ns", "kind", "model", "feature", "customer", "owner", "tokens"),
    *("backend", "currency", "basis"),
)
_HELD = f"""
SELECT {", ".join(_GROUP)}, count() AS lines
FROM
(
    SELECT {", ".join(f"argMax(l.{name}, l.known_ns) AS {name}" for name in _GROUP[1:])},
        l.attempt_id AS attempt_id
    FROM cost_lines AS l
    WHERE l.lease_id != '' AND l.at_ns BETWEEN {{first:Int64}} AND {{last:Int64}}
        AND l.attempt_id IN {{ids:Array(String)}}
    GROUP BY l.attempt_id, l.lease_id, l.window_start_ns
    HAVING NOT argMax(l.withdrawn, l.known_ns)
)
GROUP BY {", ".join(_GROUP)}
"""  # noqa: S608


def note_priced(store: Store, rows: Sequence[dict[str, Any]]) -> None:
    """Turn each row's `priced` (does its own line begin or end to hold?) into the attempt's.

    Args:
        store: Holds the lines so far, without `rows`.
        rows: Cells of new cost lines, in the order in which they will hold.
    """
    shared = [row for row in rows if row["lease_id"] and row["priced"]]
    if not shared:
        return  # an attempt that is paid by the token has one line
    held = _held(store, shared)
    for row in shared:
        group = tuple(row[name] for name in _GROUP)
        before = held[group]
        held[group] += row["priced"]
        row["priced"] = int(held[group] > 0) - int(before > 0)


def _held(store: Store, rows: Sequence[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """How many lines of each group hold now."""
    starts = [row["at_ns"] for row in rows]
    ids = sorted({row["attempt_id"] for row in rows})
    params = {"first": min(starts), "last": max(starts), "ids": ids}
    found = store.query(_HELD, params, max_rows=EVERYTHING).rows
    return Counter({tuple(row[:-1]): int(row[-1]) for row in found})


def known_tokens(row: Mapping[str, int | None]) -> int:
    """Input and output tokens of an attempt; a side of which a part is unknown counts as 0."""
    sides = (("in_uncached", "in_cache_read", "in_cache_write"), ("out_visible", "out_reasoning"))
    total = 0
    for side in sides:
        leaves = [row[leaf] for leaf in side]
        known = [tokens for tokens in leaves if tokens is not None]
        total += sum(known) if len(known) == len(leaves) else 0
    return total
