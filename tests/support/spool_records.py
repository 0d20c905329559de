"""Reads back what a process has left in its spool."""

from pathlib import Path
from typing import TypeVar

from fungible.ledger.segments import read_frames

Kind = TypeVar("Kind")


def spool_records(root: Path, kind: type[Kind]) -> list[Kind]:
    """Every record of one kind under a spool directory, oldest segment first."""
    found = []
    for path in sorted(root.glob("*/*")):
        found += [record for record in read_frames(path.read_bytes()) if isinstance(record, kind)]
    return found
