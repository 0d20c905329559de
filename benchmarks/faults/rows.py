"""What our gateway's spool says of a request."""

import time
from pathlib import Path

from fungible.contract.events import AttemptEvent
from fungible.ledger.segments import read_spool

PATIENCE_S = 5.0


def rows_of(spool: Path, *, model: str = "") -> list[AttemptEvent]:
    """Attempts on disk, of one model or of all, by time of start and number of try."""
    found = [
        part
        for part in read_spool(spool)
        if isinstance(part, AttemptEvent) and model in ("", part.model)
    ]
    return sorted(found, key=lambda row: (row.started_ns, row.attempt_no))


def wait_for(spool: Path, count: int, *, model: str) -> list[AttemptEvent]:
    """The attempts of a model once there are `count`, or those there are after a while."""
    end = time.monotonic() + PATIENCE_S
    while len(found := rows_of(spool, model=model)) < count and time.monotonic() < end:
        time.sleep(0.02)
    return found
