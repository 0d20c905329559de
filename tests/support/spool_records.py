"""Reads back what a process has left in its spool."""

from pathlib import Path
from typing import TypeVar

from fungible.ledger.segments import read_spool

Kind = TypeVar("Kind")


def spool_records(root: Path, kind: type[Kind]) -> list[Kind]:
    """Every record of one kind under a spool directory, oldest segment first."""
    return [record for record in read_spool(root) if isinstance(record, kind)]
