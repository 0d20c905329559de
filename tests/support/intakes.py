"""Run an importer over a spool of its own and see what it took."""

from collections.abc import Callable
from pathlib import Path

from fungible.contract.events import Record
from fungible.contract.streams import ImportFact, RejectFact
from fungible.ingest.intake import Intake
from fungible.ledger.segments import Damage, read_spool
from fungible.ledger.spool import SpoolWriter


def taken(
    root: Path, stream: str, take: Callable[[Intake], object]
) -> tuple[list[Record], list[RejectFact]]:
    """Facts and rejects of one import, in order."""
    spool = SpoolWriter(root, "ingest")
    try:
        with Intake(spool, stream=stream, source="file", digest="d") as intake:
            take(intake)
    finally:
        spool.close()
    records = [one for one in read_spool(root) if not isinstance(one, Damage)]
    facts = [one for one in records if not isinstance(one, RejectFact | ImportFact)]
    return facts, [one for one in records if isinstance(one, RejectFact)]
