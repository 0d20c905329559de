"""Twenty seconds of the memory soak, and what it says of a process that leaks."""

import asyncio
import subprocess
import sys
from pathlib import Path

import psutil

from soak import memory

# 2 MB a second in small pieces, like a list that nobody empties.
_LEAKS = """
import time
kept = []
print(flush=True)
while True:
    kept.append(b"x" * 40000 + b"%d" % len(kept))
    time.sleep(0.02)
"""


def test_memory_stays_while_clients_leave(tmp_path: Path) -> None:
    result = memory.run(tmp_path, seconds=20, seed=3)
    assert memory.passed(result), result


def test_a_process_that_leaks_fails() -> None:
    leaking = subprocess.Popen([sys.executable, "-c", _LEAKS], stdout=subprocess.PIPE)
    try:
        assert leaking.stdout is not None
        leaking.stdout.readline()
        seen = memory.Seen(answered=1, left=1)
        asyncio.run(memory.sampled(psutil.Process(leaking.pid), seen, 6.0))
    finally:
        leaking.kill()
        leaking.communicate()
    result = memory.verdict(seen, (0, 0))
    assert result["grown_mb"] > memory.FLOOR_MB, result
    assert not memory.passed(result)


def test_noise_and_one_jump_are_not_growth() -> None:
    at = [float(number) for number in range(200)]
    mb = [100.0 + number % 3 + (5.0 if number > 180 else 0.0) for number in range(200)]
    flat = memory.verdict(memory.Seen(1, 1, [], at, mb), (10, 10))
    assert memory.passed(flat), flat
    rising = [value + number * 0.1 for number, value in enumerate(mb)]
    assert not memory.passed(memory.verdict(memory.Seen(1, 1, [], at, rising), (10, 10)))


def test_sockets_left_open_fail() -> None:
    at, mb = [0.0, 1.0, 2.0, 3.0], [50.0, 50.0, 50.0, 50.0]
    result = memory.verdict(memory.Seen(1, 1, [], at, mb), (10, 10 + memory.CLIENTS + 1))
    assert not memory.passed(result)
