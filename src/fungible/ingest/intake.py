"""The one way in for imports: facts to the spool, rejects beside them, a receipt at the end."""

import hashlib
import time
from types import TracebackType

import msgspec

from fungible.contract.events import Record
from fungible.contract.streams import ImportFact, RejectFact
from fungible.ledger.spool import SpoolWriter

BATCH = 2_000
SAMPLE_CHARS = 300


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one import: rows taken, and rows that were not, with the first reasons."""

    stream: str
    source: str
    rows: int
    rejected: int
    reasons: list[str]


class Intake:
    """One import of one source, as a context manager; facts are on disk when it ends.

    A row is taken or rejected, never lost: rejects are records too, with the reason. Facts have
    natural keys, so an import that was cut short is simply run again.

    Args:
        spool: Where records go.
        stream: `responses`, `traces`, `prices`, `infra`, `invoice` or `steps`.
        source: Name of the file or receiver.
        digest: Identity of the whole source, such as its SHA-256.
    """

    def __init__(self, spool: SpoolWriter, *, stream: str, source: str, digest: str) -> None:
        self.stream = stream
        self.source = source
        self._spool = spool
        self._digest = digest
        self._waiting: list[Record] = []
        self._rows = 0
        self._rejected = 0
        self._reasons: dict[str, None] = {}

    def take(self, fact: Record, *, rows: int = 1) -> None:
        """Accept one fact, made of so many rows of the source."""
        self._rows += rows
        self._add(fact)

    def reject(self, place: str, reason: str, sample: str) -> None:
        """Refuse one row: where it is in the source, why, and how it begins."""
        self._rejected += 1
        if len(self._reasons) < 20:
            self._reasons[f"{place}: {reason}"] = None
        self._add(
            RejectFact(
                stream=self.stream,
                digest=digest_of([self.source, place, sample]),
                source=self.source,
                place=place,
                reason=reason,
                sample=sample[:SAMPLE_CHARS],
                at_ns=time.time_ns(),
            )
        )

    def identify(self, digest: str) -> None:
        """Say which source this was, where that is known only after it was read."""
        self._digest = digest

    def receipt(self) -> Receipt:
        """What was taken so far."""
        return Receipt(
            stream=self.stream,
            source=self.source,
            rows=self._rows,
            rejected=self._rejected,
            reasons=list(self._reasons),
        )

    def flush(self) -> None:
        """Everything taken so far is on disk when this returns.

        Raises:
            DiskError: It cannot be written; what waits is kept for another try.
        """
        if self._waiting:
            self._spool.write(*self._waiting)
            self._waiting.clear()

    def __enter__(self) -> "Intake":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._waiting.append(
                ImportFact(
                    stream=self.stream,
                    digest=self._digest,
                    source=self.source,
                    rows=self._rows,
                    rejected=self._rejected,
                    at_ns=time.time_ns(),
                )
            )
        self.flush()

    def _add(self, record: Record) -> None:
        self._waiting.append(record)
        if len(self._waiting) >= BATCH:
            self.flush()


def digest_of(facts: object) -> str:
    """32 hexadecimal digits of the SHA-256 over the canonical JSON of some plain values."""
    data = msgspec.json.encode(facts, order="deterministic")
    return hashlib.sha256(data).hexdigest()[:32]
