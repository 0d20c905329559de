"""The gateway's benchmark judges by its figures, and its load generator sees what was answered."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import bars, overhead, wire
from gateway.load import Pool
from gateway.processes import Server, StartError, running

UPSTREAM = Path(overhead.__file__).with_name("stream_upstream.py")


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, UPSTREAM, "--interval-ms", "1"]
    with running(command, tmp_path / "log") as server:
        yield f"http://127.0.0.1:{server.said['port']}/v1/chat/completions"


@pytest.mark.parametrize("stream", [True, False])
async def test_closed_loop_counts_whole_answers(upstream: str, stream: bool) -> None:
    pool = Pool(upstream, wire.request(stream=stream), {}, stream=stream, limit=3)
    await pool.open(3)
    done = await pool.closed_loop(0.2)
    await pool.close()
    assert done.requests >= 3
    assert done.failed == 0
    assert len(done.first_ms) == len(done.total_ms) == done.requests


async def test_open_loop_counts_what_it_could_not_send(upstream: str) -> None:
    pool = Pool(upstream, wire.request(stream=True), {}, stream=True, limit=1)
    await pool.open(1)
    done = await pool.open_loop(200, 0.3)
    await pool.close()
    assert done.requests + done.late == 60
    assert done.late > 0, "one connection cannot take 200 streams a second"


async def test_an_answer_cut_short_is_a_failure(tmp_path: Path) -> None:
    code = (
        "import json, socket; s = socket.create_server(('127.0.0.1', 0));"
        "print(json.dumps({'port': s.getsockname()[1]}), flush=True); c, _ = s.accept();"
        "c.recv(9999); c.sendall(b'HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"
        "5\\r\\ndata:\\r\\n'); c.close()"
    )
    with running([sys.executable, "-c", code], tmp_path / "log") as server:
        url = f"http://127.0.0.1:{server.said['port']}/"
        pool = Pool(url, b"{}", {}, stream=True, limit=1)
        await pool.open(1)
        done = await pool.closed_loop(0.1)
    assert (done.requests, done.failed) == (0, 1)


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    code = "import sys; sys.exit('no disk')"
    with (
        pytest.raises(StartError, match="no disk"),
        running([sys.executable, "-c", code], tmp_path / "log"),
    ):
        pass


def test_cpu_of_children_counts(tmp_path: Path) -> None:
    burn = "import time; e=time.process_time()+0.3\nwhile time.process_time()<e: pass"
    code = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]);"
        "print('{}', flush=True); time.sleep(60)"
    )
    with running([sys.executable, "-c", code], tmp_path / "log") as server:
        assert isinstance(server, Server)
        assert server.cpu_s() >= 0.25


def test_bars_are_ratios_of_one_run() -> None:
    results = {
        "fungible": {"cpu_us_per_request": 100.0, "cpu_us_per_chunk": 13.0},
        "litellm": {"cpu_us_per_request": 8500.0},
        "portkey": {"failed": "not installed"},
        "tensorzero": {"cpu_us_per_request": 90.0},
    }
    judged = bars.judge(results)
    assert [(bar["measured"], bar["met"]) for bar in judged] == [
        (100.0, True),
        (13.0, False),
        (85.0, True),
        (0.9, False),
    ]
    run = {"cpu": "x <y>", "date": "2026-01-01"}
    picture = bars.chart({**results, "bars": judged, "run": run})
    assert "&lt;y&gt;" in picture
    assert picture.count("<rect") == 5
