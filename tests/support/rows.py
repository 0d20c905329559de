"""What a process left in its spool, read as the shipper would."""

from pathlib import Path

from fungible.contract.events import AttemptEvent
from fungible.ledger.segments import OPEN, SEALED, read_frames


def rows(spool: Path) -> list[AttemptEvent]:
    """Attempts on disk right now, by time of start and number of try."""
    found = []
    for path in spool.glob("*/*"):
        if path.suffix in (OPEN, SEALED):
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # sealed between the listing and now
                data = path.with_suffix(SEALED).read_bytes()
            found += [part for part in read_frames(data) if isinstance(part, AttemptEvent)]
    return sorted(found, key=lambda row: (row.started_ns, row.attempt_no))
