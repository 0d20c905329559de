"""What a process left in its spool, read as the shipper would."""

from pathlib import Path

from fungible.contract.events import AttemptEvent
from fungible.ledger.segments import read_spool


def rows(spool: Path) -> list[AttemptEvent]:
    """Attempts on disk right now, by time of start and number of try."""
    found = [part for part in read_spool(spool) if isinstance(part, AttemptEvent)]
    return sorted(found, key=lambda row: (row.started_ns, row.attempt_no))
