"""The spool's bound: refused at it, said once, over by itself, and nothing else lost."""

import logging
import time
from pathlib import Path

import pytest

from fungible.contract.events import LeaseEvent
from fungible.errors import DiskError
from fungible.ledger import room
from fungible.ledger.room import Room, held_bytes
from fungible.ledger.ship import QUARANTINE
from fungible.ledger.spool import SpoolWriter

BOUND = 200_000


def lease(pad: int) -> LeaseEvent:
    return LeaseEvent(lease_id="x" * pad, backend="b", accelerator="a", started_ns=0, seen_ns=0)


def fill(writer: SpoolWriter) -> int:
    """Write until refused; how many were accepted."""
    for count in range(10_000):
        try:
            writer.write(lease(5_000))
        except DiskError:
            return count
    raise AssertionError("nothing was refused")


def until_there_is_room(writer: SpoolWriter) -> None:
    deadline = time.monotonic() + 20
    while writer.full:
        assert time.monotonic() < deadline, "it is not over after 20 s"
        time.sleep(0.01)


def test_at_its_bound_the_spool_refuses_until_it_is_shipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SpoolWriter(tmp_path, "w", max_bytes=BOUND)
    accepted = fill(writer)
    assert writer.full
    assert BOUND - 6_000 < held_bytes(tmp_path) <= BOUND
    assert accepted == BOUND // (held_bytes(tmp_path) // accepted)
    with pytest.raises(DiskError, match=f"{BOUND} are allowed") as refused:
        writer.write(lease(5_000))
    assert "max_spool_bytes" in refused.value.hint
    for _ in range(5):
        with pytest.raises(DiskError):
            writer.write(lease(5_000))
    for path in tmp_path.glob("w/*"):
        path.unlink()
    until_there_is_room(writer)
    writer.write(lease(5_000))
    writer.close()
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == [logging.ERROR, logging.WARNING]
    assert "wait to be shipped" in said[0][1]
    assert "7 writes were refused" in said[1][1]


def test_a_little_room_is_not_the_end_of_an_outage(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", max_bytes=BOUND)
    fill(writer)
    writer.write(lease(10))
    assert writer.full, "what still fits is written, but it does not last"
    writer.close()


def test_segments_of_all_writers_count_and_nothing_else(tmp_path: Path) -> None:
    for name, size in (
        ("a/1.seg", 100),
        ("b/2.open", 20),
        ("b/3.new", 3),
        (f"{QUARANTINE}/4.bad", 4),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "ship.lock").touch()
    assert held_bytes(tmp_path) == 120
    assert held_bytes(tmp_path / "absent") == 0
    with pytest.raises(DiskError, match="120 bytes wait"):
        Room(tmp_path, 120).check(1)
    Room(tmp_path, 120).check(0)
    Room(tmp_path, None).check(1 << 60)


def test_the_folder_is_looked_at_once_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    real, now = held_bytes, 1_000.0

    def counting(root: Path) -> int:
        nonlocal looks
        looks += 1
        return real(root)

    monkeypatch.setattr(room, "held_bytes", counting)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    one = Room(tmp_path, 1_000)
    for _ in range(100):
        one.check(1)
        one.taken(1)
    assert looks == 1
    with pytest.raises(DiskError, match="100 bytes wait"):
        one.check(901)
    now += 1.0
    one.check(1_000)  # the folder is empty: everything was shipped
    assert looks == 2


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    outage = room.Outage("w")
    outage.refused(DiskError("full", hint="wait"), 1)
    outage.probe(tmp_path, Room(tmp_path, None))
    assert outage.since is None
    assert not list(tmp_path.iterdir())
    outage.refused(DiskError("full", hint="wait"), 1)
    outage.probe(tmp_path / "absent", Room(tmp_path, None))
    assert outage.since is not None
