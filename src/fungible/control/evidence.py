"""Reads the rows that migrations are decided by."""

from collections.abc import Sequence

import msgspec

from fungible.contract.events import VerdictEvent
from fungible.ledger.store import Store
from fungible.migrate.observations import AttemptRow

_ATTEMPTS = """
SELECT attempt_id, request_id, kind, backend, attempt_no, status, http_status, finish_reason,
       output_chars, output_hash, started_ns
FROM attempt_events
WHERE model = {model:String} AND backend IN {backends:Array(String)}
  AND kind IN ('serve', 'shadow') AND started_ns >= {since:Int64}
  AND toDate(fromUnixTimestamp64Nano(started_ns, 'UTC'))
      >= toDate(fromUnixTimestamp64Nano({since:Int64}, 'UTC'))
ORDER BY started_ns
LIMIT {most:Int64}
"""
_VERDICTS = """
SELECT DISTINCT * FROM verdicts WHERE model = {model:String} AND candidate = {candidate:String}
"""
# Far above `max_pairs` of a sane policy; bounds the work of one look.
_MOST_ROWS = 50_000


class LedgerEvidence:
    """The ledger, as migrations see it; blocking, thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def attempts(self, model: str, backends: Sequence[str], since_ns: int) -> list[AttemptRow]:
        """Attempts of kinds serve and shadow that started since, oldest first."""
        params = {
            "model": model,
            "backends": list(backends),
            "since": since_ns,
            "most": _MOST_ROWS,
        }
        rows = self._store.query(_ATTEMPTS, params)
        return msgspec.convert(rows.dicts(), list[AttemptRow], strict=False)

    def verdicts(self, model: str, candidate: str) -> list[VerdictEvent]:
        """Every verdict on the candidate."""
        rows = self._store.query(_VERDICTS, {"model": model, "candidate": candidate})
        return msgspec.convert(rows.dicts(), list[VerdictEvent], strict=False)
