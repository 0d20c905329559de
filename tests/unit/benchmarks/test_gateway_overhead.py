"""The gateway's benchmark judges by its figures, and its load generator sees what was answered."""

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gateway import bars, further, idle, latency, overhead, wire
from gateway.gateways import Upstreams, fungible
from gateway.load import Done, LoadError, Pool
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
    assert (done.requests, done.failed) == (60, 0)
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


def test_latency_is_the_difference_of_quantiles() -> None:
    direct, through = latency.Times(), latency.Times()
    for at in range(1, 102):
        direct.add(Done(requests=1, first_ms=[float(at)], total_ms=[2.0 * at]))
        through.add(Done(requests=1, first_ms=[at + 3.0], total_ms=[3.0 * at]))
    found = latency.compared(direct, through)
    assert (found["direct_first_p50_ms"], found["direct_first_p99_ms"]) == (51.0, 100.0)
    assert (found["added_first_p50_ms"], found["added_first_p99_ms"]) == (3.0, 3.0)
    assert (found["added_total_p50_ms"], found["added_total_p99_ms"]) == (51.0, 100.0)


@pytest.mark.parametrize("wrong", [Done(requests=9, failed=1), Done()])
def test_latency_of_some_is_no_latency(wrong: Done) -> None:
    with pytest.raises(LoadError):
        latency.Times().add(wrong)


def test_latency_is_measured_through_the_gateway(upstream: str, tmp_path: Path) -> None:
    place = upstream.split("/")[2]
    where = Upstreams(whole=place, streams=place)
    wanted = further.Wanted(latency=True, workers=[], idle=0, seconds=0.2, rounds=1)
    found = further.measure(wanted, where, tmp_path)
    assert not further.failed(found), found
    assert [(row["stream"], row["prompt_bytes"] > 100_000) for row in found["latency"]] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert all(row["rate_per_s"] < row["capacity_per_s"] for row in found["latency"])
    said = io.StringIO()
    further.show(Console(file=said, width=140), found)
    assert "stream, 200 KB" in said.getvalue()


def test_idle_streams_all_end(
    upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "_SPARE_S", 6.0)
    place = upstream.split("/")[2]
    found = idle.measure(30, Upstreams(whole=place, streams=place), tmp_path, watch_s=0.5)
    assert (found["ended"], found["rows"]) == (30, 230)


def test_a_stream_that_does_not_pause_is_not_idle(upstream: str, tmp_path: Path) -> None:
    place = upstream.split("/")[2]
    with (
        fungible(Upstreams(whole=place, streams=place), tmp_path) as gateway,
        pytest.raises(LoadError, match="ended"),
    ):
        asyncio.run(idle._watch(gateway, 3, 0.1))


def test_a_peer_that_cannot_stream_keeps_its_figures() -> None:
    sample = overhead.Sample(request_us=[5.0], streams_failed="1 streams failed")
    assert sample.result()["cpu_us_per_request"] == 5.0
    assert sample.result()["streams_failed"] == "1 streams failed"
    assert "cpu_us_per_chunk" not in sample.result()
