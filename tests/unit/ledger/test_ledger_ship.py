"""From spool to ledger exactly once, whatever is in the segments."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from fungible.contract.events import AttemptEvent
from fungible.errors import FungibleError, UnavailableError
from fungible.ledger.segments import MAGIC, encode_frame
from fungible.ledger.ship import ship
from fungible.ledger.spool import SpoolWriter
from fungible.ledger.store import Store

Make = Callable[..., AttemptEvent]


class CrashError(Exception):
    """Where a process would be gone."""


def crash(path: Path, *, missing_ok: bool = False) -> None:
    raise CrashError(path, missing_ok)


def names(store: Store) -> list[str]:
    return [row[0] for row in store.query("SELECT attempt_id FROM attempts ORDER BY 1").rows]


def test_sealed_and_orphaned_segments_are_shipped_and_gone(
    tmp_path: Path, store: Store, attempt: Make
) -> None:
    spool = tmp_path / "spool"
    assert ship(spool, store) == 0
    for name in ("gateway-0", "gateway-1"):
        writer = SpoolWriter(spool, name)
        writer.write(attempt(name))
        writer.close()
    (spool / "dead").mkdir()
    (spool / "dead" / "abc.open").write_bytes(
        encode_frame(attempt("orphan")) + encode_frame(attempt("torn"))[:-3]
    )
    alive = SpoolWriter(spool, "alive")
    alive.write(attempt("later"))
    assert ship(spool, store) == 3
    assert names(store) == ["att_gateway-0", "att_gateway-1", "att_orphan"]
    alive.close()
    assert ship(spool, store) == 1
    assert ship(spool, store) == 0
    assert len(names(store)) == 4
    assert not list(spool.glob("*/*.seg"))


def test_a_segment_that_was_inserted_but_not_unlinked_is_not_doubled(
    tmp_path: Path, store: Store, attempt: Make
) -> None:
    spool = tmp_path / "spool"
    writer = SpoolWriter(spool, "w")
    writer.write(attempt("1"), attempt("2"))
    writer.close()
    (path,) = spool.glob("w/*.seg")
    data = path.read_bytes()
    for _ in range(3):
        ship(spool, store)
        path.write_bytes(data)
    ship(spool, store)
    assert names(store) == ["att_1", "att_2"]


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_inserted_before_a_crash_does_not_go_again_with_what_came_since(
    tmp_path: Path,
    store: Store,
    attempt: Make,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    spool = tmp_path / "spool"

    def write(name: str) -> None:
        writer = SpoolWriter(spool, name)
        writer.write(attempt(name))
        writer.close()

    for number in range(count):
        write(f"early-{number}")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", crash)
        with pytest.raises(CrashError):
            ship(spool, store)
    write("late")
    ship(spool, store)
    assert names(store) == [*(f"att_early-{number}" for number in range(count)), "att_late"]
    assert not list(spool.glob("*/*.seg"))


def test_a_corrupt_record_goes_to_quarantine_and_the_rest_arrives(
    tmp_path: Path, store: Store, attempt: Make, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool"
    (spool / "w").mkdir(parents=True)
    broken = bytearray(encode_frame(attempt("2")))
    broken[40] ^= 0xFF
    data = encode_frame(attempt("1")) + bytes(broken) + encode_frame(attempt("3"))
    (spool / "w" / "abc.seg").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert ship(spool, store) == 2
    assert names(store) == ["att_1", "att_3"]
    (kept,) = (spool / "quarantine").iterdir()
    assert kept.read_bytes() == bytes(broken)
    assert str(kept) in caplog.text


def test_a_segment_of_rubbish_is_not_fatal(tmp_path: Path, store: Store) -> None:
    spool = tmp_path / "spool"
    (spool / "w").mkdir(parents=True)
    (spool / "w" / "a.seg").write_bytes(MAGIC * 50)
    (spool / "w" / "b.seg").write_bytes(b"")
    (spool / "w" / "c.open").write_bytes(b"")
    assert ship(spool, store) == 0
    assert not list(spool.glob("w/*"))


def test_what_the_ledger_refuses_stays(tmp_path: Path, store: Store, attempt: Make) -> None:
    spool = tmp_path / "spool"
    writer = SpoolWriter(spool, "w")
    writer.write(attempt("1"))
    writer.close()
    with store._client() as client:
        client.command("RENAME TABLE attempt_events TO hidden")
    with pytest.raises(FungibleError) as raised:
        ship(spool, store)
    assert isinstance(raised.value, UnavailableError)
    assert len(list(spool.glob("w/*.seg"))) == 1
    with store._client() as client:
        client.command("RENAME TABLE hidden TO attempt_events")
    assert ship(spool, store) == 1
