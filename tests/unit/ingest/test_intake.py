"""An import takes or rejects every row, and repeating it changes nothing."""

from pathlib import Path

from fungible.contract.streams import ImportFact, RejectFact, SpanFact
from fungible.ingest.intake import BATCH, Intake, digest_of
from fungible.ledger.segments import Damage, read_spool
from fungible.ledger.spool import SpoolWriter


def span(number: int) -> SpanFact:
    return SpanFact(digest=digest_of(number), source=f"f:{number}", span_id=f"{number:016x}")


def run(root: Path, rows: int) -> Intake:
    spool = SpoolWriter(root, "ingest")
    try:
        with Intake(spool, stream="traces", source="f", digest="d") as intake:
            for number in range(rows):
                intake.take(span(number))
            intake.reject("line 7", "not JSON", "{" * 1000)
    finally:
        spool.close()
    return intake


def test_every_row_is_on_disk_with_a_receipt(tmp_path: Path) -> None:
    receipt = run(tmp_path, BATCH + 5).receipt()
    assert (receipt.rows, receipt.rejected) == (BATCH + 5, 1)
    assert receipt.reasons == ["line 7: not JSON"]
    records = list(read_spool(tmp_path))
    assert not any(isinstance(record, Damage) for record in records)
    assert [record.rows for record in records if isinstance(record, ImportFact)] == [BATCH + 5]
    (reject,) = (record for record in records if isinstance(record, RejectFact))
    assert (reject.reason, len(reject.sample)) == ("not JSON", 300)


def test_an_import_that_fails_keeps_what_it_took_and_gives_no_receipt(tmp_path: Path) -> None:
    spool = SpoolWriter(tmp_path, "ingest")
    intake = Intake(spool, stream="traces", source="f", digest="d")
    intake.take(span(1))
    intake.__exit__(KeyError, KeyError(), None)
    spool.close()
    kinds = [type(record) for record in read_spool(tmp_path)]
    assert kinds == [SpanFact]


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": None}) == digest_of({"b": None, "a": 1})
    assert digest_of([1]) != digest_of(["1"])
