"""`fungible up`: everything comes up, keeps up, and nothing is left behind, however it ends."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fungible.config import BackendSettings, Config, EngineSettings
from support.control_setup import config_in, write_config
from support.processes import FUNGIBLE, ask, chat, processes_of
from support.tiny_model import build_tiny_artifact
from support.up import up


def until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def with_engine(config: Config, artifact: str) -> Config:
    engine = EngineSettings(artifact=artifact, variant="f32", slots=2, context=64, threads=1)
    backend = BackendSettings(accelerator="cpu-x86", model="tiny", engine=engine)
    return msgspec.structs.replace(config, backend={**config.backend, "own": backend})


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=["f32"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_ships_every_row(
    tmp_path: Path, number: signal.Signals
) -> None:
    with up(tmp_path, config_in(tmp_path)) as running:
        assert set(chat(running.ready["gateway"], 6)) == {200}
        assert ask(running.ready["control"], "GET", "/health")[0] == 200
        assert running.end(number) == 0
        assert processes_of(tmp_path) == []
    left = [path.name for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert left == ["ship.lock"]
    done = subprocess.run(
        [*FUNGIBLE, "cost", "sql", "SELECT count() FROM attempts", "--json", "--config",
         str(tmp_path / "config.json")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["rows"] == [[6]], done.stderr


def test_kill_9_of_the_supervisor_leaves_no_process_and_the_home_can_be_used_again(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path)
    with up(tmp_path, config) as running:
        assert running.children().keys() == {"gateway", "control"}
        running.end(signal.SIGKILL)
        with up(tmp_path, config) as again:
            assert set(chat(again.ready["gateway"], 2)) == {200}
            assert again.end(signal.SIGINT) == 0
    until(lambda: processes_of(tmp_path) == [])


def test_only_one_in_a_home_at_a_time(tmp_path: Path) -> None:
    with up(tmp_path, config_in(tmp_path)) as running:
        second = subprocess.run(
            [*FUNGIBLE, "up", "--config", str(tmp_path / "config.json")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert second.returncode == 4
        assert f"pid {running.process.pid}" in second.stderr
        assert "hint: stop it first" in second.stderr
        assert set(chat(running.ready["gateway"], 2)) == {200}


def test_what_dies_is_started_again_at_the_same_address(tmp_path: Path) -> None:
    with up(tmp_path, config_in(tmp_path)) as running:
        for name in ("gateway", "control"):
            child = running.children()[name]
            child.kill()
            until(lambda name=name, child=child: running.children().get(name, child) != child)
        until(lambda: answers(running.ready["gateway"], "/v1/models"))
        until(lambda: answers(running.ready["control"], "/health"))
        until(lambda: pings(running.ready["clickhouse"]))
        assert set(chat(running.ready["gateway"], 2)) == {200}
        assert running.end(signal.SIGINT) == 0
        assert processes_of(tmp_path) == []


def test_a_taken_port_is_one_clear_error_and_nothing_stays(tmp_path: Path) -> None:
    with up(tmp_path / "a", config_in(tmp_path / "a")) as running:
        taken = int(running.ready["gateway"].rsplit(":", 1)[1])
        config = config_in(tmp_path / "b")
        gateway = msgspec.structs.replace(config.gateway, port=taken)
        path = write_config(msgspec.structs.replace(config, gateway=gateway))
        done = subprocess.run(
            [*FUNGIBLE, "up", "--config", str(path)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 4
    assert f"127.0.0.1:{taken} is in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_of(tmp_path / "b") == []


def test_an_engine_that_does_not_start_is_one_clear_error_and_nothing_stays(
    tmp_path: Path,
) -> None:
    path = write_config(with_engine(config_in(tmp_path), "sha256:0123456789"))
    done = subprocess.run(
        [*FUNGIBLE, "up", "--json", "--config", str(path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert "engine-own ended with exit code 2" in done.stderr
    assert "'sha256:0123456789'" in done.stderr
    assert "hint: its whole log" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "startup_failed"
    assert processes_of(tmp_path) == []


def test_a_signal_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    path = write_config(config_in(tmp_path))
    process = subprocess.Popen([*FUNGIBLE, "up", "--config", str(path)], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert b"control: starting" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert processes_of(tmp_path) == []
    finally:
        process.kill()
        process.communicate()


def test_kill_9_during_the_start_leaves_nothing_that_still_loads(
    tmp_path: Path, artifact: Path
) -> None:
    stuck = tmp_path / "stuck"
    shutil.copytree(artifact, stuck)
    # A pipe that we hold open and never write to: reading the tokenizer never ends.
    pipe = stuck / "tokenizer.json"
    pipe.unlink()
    os.mkfifo(pipe)
    path = write_config(with_engine(config_in(tmp_path), str(stuck)))
    process = subprocess.Popen([*FUNGIBLE, "up", "--config", str(path)], stderr=subprocess.PIPE)
    held: list[int] = []
    try:
        until(lambda: bool(held) or hold(pipe, held))
        assert len(processes_of(tmp_path)) == 2
        process.kill()
        process.wait()
        until(lambda: processes_of(tmp_path) == [], 20)
    finally:
        process.kill()
        process.communicate()
        for fd in held:
            os.close(fd)


def hold(pipe: Path, held: list[int]) -> bool:
    """Open the writing end; possible only once somebody reads."""
    try:
        held.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_engines_hold_leases_and_come_back_after_kill_9(tmp_path: Path, artifact: Path) -> None:
    config = with_engine(config_in(tmp_path), str(artifact))
    with up(tmp_path, config) as running:
        url = running.ready["backends"]["own"]
        assert ask(url, "GET", "/v1/models")[0] == 200
        resolved = json.loads((tmp_path / "run" / "config.json").read_text())
        assert resolved["backend"]["own"]["url"] == url
        engine = running.children()["engine"]
        os.kill(engine.pid, signal.SIGKILL)
        until(lambda: running.children().get("engine", engine) != engine)
        until(lambda: answers(url, "/v1/models"))
        time.sleep(1.5)
        assert running.end(signal.SIGINT) == 0
        assert processes_of(tmp_path) == []
    done = subprocess.run(
        [*FUNGIBLE, "cost", "sql",
         "SELECT backend, accelerator, max(seen_ns) > min(started_ns), max(ended) FROM leases "
         "GROUP BY lease_id, backend, accelerator", "--json", "--config",
         str(tmp_path / "config.json")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    rows = json.loads(done.stdout)["rows"]
    assert rows == [["own", "cpu-x86", 1, True]] * 2, done.stderr


def pings(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=10) as answer:
            return answer.read() == b"Ok.\n"
    except OSError:
        return False


def answers(url: str, path: str) -> bool:
    try:
        return ask(url, "GET", path)[0] == 200
    except OSError:
        return False
