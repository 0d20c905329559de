"""Nothing acknowledged is lost and nothing is counted twice, whenever a process is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fungible.contract.events import LeaseEvent
from fungible.ledger.rollups import ROLLUPS
from fungible.ledger.ship import ship
from fungible.ledger.spool import SpoolWriter
from fungible.ledger.store import open_store

ATTEMPT = """
import os, resource, signal, sys
from pathlib import Path
from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.errors import FungibleError
from fungible.ledger.ship import ship
from fungible.ledger.spool import SpoolWriter
from fungible.ledger.store import open_store

home = Path(sys.argv[1])

def attempt(name):
    return AttemptEvent(
        attempt_id=name, request_id=name, attempt_no=0, kind="serve", endpoint="models",
        model="m", backend="b", backend_kind="null", started_ns=1, ended_ns=2, status="ok",
        session=name * 20,
    )

def lease(name):
    return LeaseEvent(lease_id=name, backend="b", accelerator="a", started_ns=1, seen_ns=2)
"""

WRITE_FOREVER = """
writer = SpoolWriter(home / "spool", "w")
at = 0
while True:
    writer.write(attempt(f"{sys.argv[2]}-{at:05}"), lease(f"{sys.argv[2]}-{at:05}"))
    print(f"{sys.argv[2]}-{at:05}", flush=True)
    at += 1
"""

WRITE_SEGMENTS = """
for at in range(4):
    writer = SpoolWriter(home / "spool", "w")
    for row in range(25):
        writer.write(attempt(f"{at}-{row}"), lease(f"{at}-{row}"))
    writer.close()
"""

SHIP_AND_DIE = """
store = open_store(f"chdb://{home}/ledger")
store.migrate()
inserted = 0
real = store.insert_rows

def dying(table, rows, token=""):
    global inserted
    real(table, rows, token)
    inserted += bool(rows)
    if inserted == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

store.insert_rows = dying
print("shipping", flush=True)
ship(home / "spool", store)
"""

SHIP_AND_DIE_UNLINKING = """
store = open_store(f"chdb://{home}/ledger")
store.migrate()
unlinked = 0
real = Path.unlink

def dying(path, missing_ok=False):
    global unlinked
    real(path, missing_ok)
    unlinked += path.suffix == ".seg"
    if unlinked == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Path.unlink = dying
ship(home / "spool", store)
"""

SHIP_TO_A_FULL_DISK = """
store = open_store(f"chdb://{home}/ledger")
store.migrate()
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
try:
    ship(home / "spool", store)
except FungibleError as error:
    print(type(error).__name__, error.message)
os._exit(0)
"""


def run(code: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ATTEMPT + code, str(home), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def shipped(home: Path) -> dict[str, list[str]]:
    store = open_store(f"chdb://{home}/ledger")
    try:
        store.migrate()
        ship(home / "spool", store)
        assert ship(home / "spool", store) == 0
        for rollup in ROLLUPS:
            sums = store.query(f"SELECT sum(r.attempts) FROM {rollup.table} AS r").rows
            assert sums == store.query("SELECT toInt64(count()) FROM attempt_events").rows
        return {
            "attempts": [
                row[0] for row in store.query("SELECT attempt_id FROM attempts ORDER BY 1").rows
            ],
            "leases": [row[0] for row in store.query("SELECT lease_id FROM leases").rows],
        }
    finally:
        store.close()


def test_a_writer_killed_while_it_appends(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for turn in ("a", "b", "c"):
        child = subprocess.Popen(
            [sys.executable, "-c", ATTEMPT + WRITE_FOREVER, str(tmp_path), turn],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        with child.stdout:
            acknowledged += [child.stdout.readline().strip() for _ in range(40)]
            time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
        assert child.wait(timeout=30) == -signal.SIGKILL
    rows = shipped(tmp_path)
    found = rows["attempts"]
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    # A killed writer may have written one more than it could say.
    assert len(found) <= len(acknowledged) + 3
    assert sorted(rows["leases"]) == found


@pytest.mark.parametrize("after", [[1], [2], [2, 1, 2]])
def test_a_shipper_killed_between_insert_and_unlink(tmp_path: Path, after: list[int]) -> None:
    assert run(WRITE_SEGMENTS, tmp_path).returncode == 0
    for inserts in after:
        died = run(SHIP_AND_DIE, tmp_path, str(inserts))
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert list((tmp_path / "spool").glob("w/*.seg"))
    rows = shipped(tmp_path)
    assert rows["attempts"] == sorted(f"{at}-{row}" for at in range(4) for row in range(25))
    assert len(rows["leases"]) == 100
    assert not list((tmp_path / "spool").glob("w/*"))


@pytest.mark.parametrize("unlinked", [1, 3, 4])
def test_a_shipper_killed_while_it_unlinks_and_more_comes(tmp_path: Path, unlinked: int) -> None:
    assert run(WRITE_SEGMENTS, tmp_path).returncode == 0
    died = run(SHIP_AND_DIE_UNLINKING, tmp_path, str(unlinked))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(list((tmp_path / "spool").glob("w/*.seg"))) == 4 - unlinked
    more = SpoolWriter(tmp_path / "spool", "later")
    more.write(LeaseEvent(lease_id="l", backend="b", accelerator="a", started_ns=1, seen_ns=2))
    more.close()
    rows = shipped(tmp_path)
    assert rows["attempts"] == sorted(f"{at}-{row}" for at in range(4) for row in range(25))
    assert len(rows["leases"]) == 101
    assert not [
        path for path in (tmp_path / "spool").rglob("*") if path.suffix in (".seg", ".batch")
    ]


def test_a_shipper_killed_at_any_moment(tmp_path: Path) -> None:
    assert run(WRITE_SEGMENTS, tmp_path).returncode == 0
    for delay in (0.0, 0.005, 0.02):
        child = subprocess.Popen(
            [sys.executable, "-c", ATTEMPT + SHIP_AND_DIE, str(tmp_path), "-1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == "shipping\n"
            time.sleep(delay)
            child.kill()
            child.wait(timeout=30)
    rows = shipped(tmp_path)
    assert len(rows["attempts"]) == len(set(rows["attempts"])) == 100


def test_a_full_disk_under_the_ledger_keeps_the_spool(tmp_path: Path) -> None:
    assert run(WRITE_SEGMENTS, tmp_path).returncode == 0
    full = run(SHIP_TO_A_FULL_DISK, tmp_path)
    assert full.returncode == 0, full.stderr
    assert full.stdout.split()[0] in {"DiskError", "UnavailableError"}, full.stdout
    assert len(list((tmp_path / "spool").glob("w/*.seg"))) == 4
    assert len(shipped(tmp_path)["attempts"]) == 100
