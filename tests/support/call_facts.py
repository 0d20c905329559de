"""Facts about model calls, and a ledger that puts them together."""

import itertools
import time
from typing import Any

from fungible.contract.events import Record
from fungible.contract.streams import ResponseFact, SpanFact
from fungible.ledger.stitch import stitch
from fungible.ledger.store import Store

S = 1_000_000_000
T0 = 1_790_000_040 * S
USED: dict[str, Any] = {
    "in_uncached": 6,
    "in_cache_read": 4,
    "in_cache_write": 0,
    "out_visible": 5,
    "out_reasoning": 0,
    "usage_source": "provider_final",
}


def response(name: str, **changes: Any) -> ResponseFact:
    fields: dict[str, Any] = {"operation": "chat", "response_id": name, "status": "ok"}
    fields |= {**USED, "rank": 4, "started_ns": T0, "ended_ns": T0 + S}
    fields |= changes
    digest = f"r-{name}-{hash(str(sorted(changes.items()))) & 0xFFFF}"
    return ResponseFact(**({"digest": digest, "source": "f"} | fields))


def span(name: str, **changes: Any) -> SpanFact:
    fields: dict[str, Any] = {"trace_id": "t1", "span_id": name, "status": "ok"}
    fields |= {"operation": "chat", "started_ns": T0 + 7, "ended_ns": T0 + 9 * S} | changes
    digest = f"s-{name}-{hash(str(sorted(changes.items()))) & 0xFFFF}"
    return SpanFact(**({"digest": digest, "source": "f"} | fields))


_names = itertools.count()


class Ledger:
    def __init__(self, store: Store) -> None:
        self.store = store
        self._shipped = 0
        self._name = next(_names)

    def ship(self, *records: Record) -> int:
        self._shipped += 1
        self.store.insert(list(records), f"test-{self._name}-{self._shipped}")
        return stitch(self.store, time.time_ns())

    def attempts(self) -> list[dict[str, Any]]:
        rows = self.store.query(
            "SELECT * EXCEPT (ingested_ns) FROM all_attempts WHERE NOT withdrawn"
            " ORDER BY attempt_id"
        )
        return rows.dicts()

    def only(self) -> dict[str, Any]:
        (row,) = self.attempts()
        return row
