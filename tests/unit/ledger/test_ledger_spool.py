"""Records are on disk when `write` returns, and damaged segments give back what they hold."""

import asyncio
import fcntl
import logging
import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.contract.events import AttemptEvent, EvalItemEvent, LeaseEvent
from fungible.errors import DiskError, InputError, UnavailableError
from fungible.ledger.segments import (
    MAGIC,
    Damage,
    encode_frame,
    read_frames,
    seal_orphan,
    whole_length,
)
from fungible.ledger.spool import SpoolWriter

Make = Callable[..., AttemptEvent]


def lease(at: int, *, pad: int = 0) -> LeaseEvent:
    return LeaseEvent(
        lease_id=f"l{at}{'x' * pad}", backend="b", accelerator="a", started_ns=0, seen_ns=at
    )


def on_disk(root: Path) -> list[object]:
    paths = sorted(path for path in root.glob("*/*") if path.suffix in (".open", ".seg"))
    return [part for path in paths for part in read_frames(path.read_bytes())]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "did not happen in 20 s"
        time.sleep(0.01)


def test_a_record_is_on_disk_when_write_returns(tmp_path: Path, attempt: Make) -> None:
    writer = SpoolWriter(tmp_path, "gateway-0")
    records = [attempt("1", tags={"k": "ü\n"}), lease(2), attempt("3", in_uncached=None)]
    writer.write(*records)
    assert on_disk(tmp_path) == records
    writer.close()


def test_the_writer_holds_its_open_segment_and_seals_it_by_itself(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w")
    writer.write(lease(1))
    (path,) = tmp_path.glob("w/*.open")
    assert seal_orphan(path) is None
    wait_until(lambda: len(list(tmp_path.glob("w/*.seg"))) == 1)
    writer.write(lease(2))
    writer.close()
    assert len(list(tmp_path.glob("w/*.seg"))) == 2
    assert not list(tmp_path.glob("w/*.open"))
    assert on_disk(tmp_path) == [lease(1), lease(2)]


def test_a_large_segment_is_sealed_at_once(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w")
    big = lease(1, pad=1 << 20)
    writer.write(big)
    writer.write(lease(2))
    assert len({path.stem for path in tmp_path.glob("w/*")}) == 2
    writer.close()
    assert on_disk(tmp_path) == [big, lease(2)]


async def test_concurrent_commits_share_an_fsync_and_keep_their_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = os.fsync

    def counting(fd: int) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.005)
        real(fd)

    monkeypatch.setattr(os, "fsync", counting)
    writer = SpoolWriter(tmp_path, "w")
    await asyncio.gather(*(writer.commit(lease(at)) for at in range(200)))
    assert calls < 100
    assert sorted(record.seen_ns for record in on_disk(tmp_path)) == list(range(200))  # type: ignore[attr-defined]
    writer.close()


async def test_a_cancelled_commit_is_still_written(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w")
    task = asyncio.create_task(writer.commit(lease(7)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    writer.close()
    assert on_disk(tmp_path) == [lease(7)]


def test_threads_write_at_once(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w")

    def work(base: int) -> None:
        for at in range(25):
            writer.write(lease(base + at))

    threads = [threading.Thread(target=work, args=(base * 100,)) for base in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert len(on_disk(tmp_path)) == 100


def test_bad_use_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="spool writer"):
        SpoolWriter(tmp_path, "../out")
    writer = SpoolWriter(tmp_path, "w")
    fields = {
        name: "" for name in EvalItemEvent.__struct_fields__ if name not in ("score", "at_ns")
    }
    broken = EvalItemEvent(**fields, score=float("nan"), at_ns=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"EvalItemEvent\.score is nan"):
        writer.write(broken)
    writer.close()
    writer.close()
    with pytest.raises(UnavailableError, match="closed"):
        writer.write(lease(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot write"):
        SpoolWriter(tmp_path / "file", "w")


FULL = """
import resource, sys
from pathlib import Path
from fungible.contract.events import LeaseEvent
from fungible.errors import DiskError
from fungible.ledger.spool import SpoolWriter

def lease(at, pad=0):
    return LeaseEvent(
        lease_id=f"l{at}" + "x" * pad, backend="b", accelerator="a", started_ns=0, seen_ns=at
    )

writer = SpoolWriter(Path(sys.argv[1]), "w")
writer.write(lease(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    writer.write(lease(2, pad=8000))
except DiskError as error:
    print("refused:", error.message, "|", error.hint)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write(lease(3))
writer.close()
"""


def test_a_full_disk_refuses_and_loses_nothing_accepted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "refused:" in done.stdout
    assert "cannot write: File too large" in done.stdout
    assert on_disk(tmp_path) == [lease(1), lease(3)]


def test_an_orphan_loses_only_its_torn_tail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = encode_frame(lease(1)) + encode_frame(lease(2))
    path = tmp_path / "abc.open"
    path.write_bytes(whole + encode_frame(lease(3))[:-1])
    with caplog.at_level(logging.WARNING):
        sealed = seal_orphan(path)
    assert sealed == tmp_path / "abc.seg"
    assert sealed.read_bytes() == whole
    assert "torn tail" in caplog.text
    assert seal_orphan(path) is None


def test_a_locked_segment_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "abc.open"
    path.write_bytes(encode_frame(lease(1))[:-1])
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert seal_orphan(path) is None
    assert seal_orphan(path) is not None


def test_a_frame_that_is_no_record_is_told_apart() -> None:
    frame = encode_frame(lease(1))
    payload = b'{"record":"from-the-future"}'
    alien = struct.pack("<4sII", MAGIC, len(payload), zlib.crc32(payload)) + payload
    parts = list(read_frames(frame + alien + encode_frame(lease(2))))
    assert parts[0] == lease(1)
    assert isinstance(parts[1], Damage)
    assert parts[1].offset == len(frame)
    assert "from-the-future" in parts[1].reason
    assert parts[2] == lease(2)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 8), st.data())
def test_damage_costs_only_the_records_it_touches(count: int, data: st.DataObject) -> None:
    frames = [encode_frame(lease(at)) for at in range(count)]
    hit = data.draw(st.integers(0, count - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "garbage"]))
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    frame = frames[hit]
    at = rng.randrange(len(frame))
    damaged = {
        "flip": frame[:at] + bytes([frame[at] ^ (1 << rng.randrange(8))]) + frame[at + 1 :],
        "cut": frame[:at],
        "insert": frame[:at] + rng.randbytes(rng.randrange(1, 40)) + frame[at:],
        "garbage": rng.randbytes(len(frame)) + MAGIC + b"\xff" * 8,
    }[kind]
    raw = b"".join([*frames[:hit], damaged, *frames[hit + 1 :]])
    parts = list(read_frames(raw))
    found = [part for part in parts if not isinstance(part, Damage)]
    intact = [lease(at) for at in range(count) if at != hit]
    assert [record for record in found if record != lease(hit)] == intact
    # Every byte is either in a record or reported.
    lost = sum(len(part.data) for part in parts if isinstance(part, Damage))
    assert lost + sum(len(encode_frame(part)) for part in found) == len(raw)
    assert whole_length(raw) <= len(raw)
