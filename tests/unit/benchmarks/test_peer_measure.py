"""Drivers as processes: ours on a tiny model, and some that misbehave."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import psutil
import pytest

from peers import measure as measuring
from peers.catalogue import PEERS, Engine, Peer
from peers.children import Driver, DriverError
from peers.environments import NotInstalledError, interpreter
from peers.load import measure as load
from peers.load import mix
from peers.measure import Plan, measure, prompts
from support.scripted_upstream import scripted_upstream
from support.tiny_model import build_tiny_artifact, tiny_tokenizer

PLAN = Plan(
    threads=1,
    prompts=[[5, 9, 7, 30], [8, 9, 7, 30], [11, 9, 7, 30]],
    tokens=6,
    requests={1: 1, 2: 2},
    patience=60.0,
    context=128,
)
OURS = Engine(
    "ours", "fungible", "f32", "artifact", {"target": "onnxruntime:cpu", "variant": "f32"}
)


def drive(tmp_path: Path, body: str) -> Driver:
    """A driver that is just `body`; `answer` writes an event, `job` is what it was told."""
    script = tmp_path / "driver.py"
    head = "import json, os, subprocess, sys, time\njob = json.loads(sys.stdin.readline())\n"
    head += (
        "def answer(event, **rest):\n    print(json.dumps({'event': event} | rest), flush=True)\n"
    )
    script.write_text(head + body)
    return Driver(Path(sys.executable), script, {"mode": "bare"}, tmp_path / "driver.log")


def test_our_driver_measures_the_runtime_alone(tmp_path: Path) -> None:
    artifact = build_tiny_artifact(tmp_path, variants=("f32",))
    python = interpreter("fungible", PEERS["fungible"], tmp_path, install=False)
    cell = measure(OURS, "bare", 3, python, artifact, PLAN, tmp_path / "logs")
    assert cell.error == ""
    assert (cell.engine, cell.kind, cell.round) == ("ours", "bare", 3)
    assert len(cell.prefill) == len(cell.decode) == 2  # the first prompt warms up
    assert min(*cell.prefill, *cell.decode) > 0
    assert len(cell.tokens) == PLAN.tokens
    assert cell.peak_pss > 10_000_000
    assert set(cell.versions) == {"fungible", "numpy"}
    assert cell.record()["cell"]["decode"] == cell.decode


def test_our_server_is_measured_over_http_and_ends(tmp_path: Path) -> None:
    artifact = build_tiny_artifact(tmp_path, variants=("f32",))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    cell = measure(OURS, "served", 1, Path(sys.executable), artifact, PLAN, tmp_path / "logs")
    # The mix is made for a model with words; for single bytes it is longer than the context,
    # and that is said in the engine's own words.
    assert "HTTP 400" in cell.error
    assert "context" in cell.error
    assert cell.versions  # it did start
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert not left


def test_a_variant_that_is_not_there_is_a_reason_not_a_crash(tmp_path: Path) -> None:
    artifact = build_tiny_artifact(tmp_path, variants=("f32",))
    engine = Engine("ours", "fungible", "8/4-bit", "artifact", OURS.options | {"variant": "int8"})
    cell = measure(engine, "bare", 1, Path(sys.executable), artifact, PLAN, tmp_path / "logs")
    assert "no variant 'int8'" in cell.error
    assert not cell.decode


def test_an_interpreter_that_cannot_be_started_is_a_reason(tmp_path: Path) -> None:
    cell = measure(OURS, "bare", 1, tmp_path / "python", tmp_path, PLAN, tmp_path / "logs")
    assert "cannot start" in cell.error


def test_what_a_driver_prints_besides_its_answers_is_ignored(tmp_path: Path) -> None:
    with drive(tmp_path, "print('hello')\nanswer('loaded', seconds=1)\nanswer('done')") as driver:
        assert [event["event"] for event in driver.events(20)] == ["loaded", "done"]


def test_a_driver_that_dies_is_quoted(tmp_path: Path) -> None:
    body = "sys.stderr.write('first\\nout of luck\\n')\nos._exit(3)"
    with drive(tmp_path, body) as driver, pytest.raises(DriverError, match=r"status 3.*of luck"):
        list(driver.events(20))


def test_a_silent_driver_is_given_up(tmp_path: Path) -> None:
    began = time.monotonic()
    with drive(tmp_path, "time.sleep(600)") as driver, pytest.raises(DriverError, match="nothing"):
        list(driver.events(0.5))
    assert time.monotonic() - began < 60


def test_children_of_a_driver_end_with_it_whatever_they_ignore(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    body = f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}])\n"
    body += "answer('loaded', pid=child.pid)\ntime.sleep(0.5)\nanswer('done')"
    with drive(tmp_path, body) as driver:
        child = psutil.Process(next(iter(driver.events(20)))["pid"])
        list(driver.events(20))
    # The signal takes a moment, and its new parent may never collect it.
    with contextlib.suppress(psutil.NoSuchProcess):
        deadline = time.monotonic() + 10
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the child lives on"
            time.sleep(0.05)


def test_a_peer_is_not_installed_where_that_was_not_asked_for(tmp_path: Path) -> None:
    peer = Peer("llamacpp.py", ("no-such-package==1",))
    with pytest.raises(NotInstalledError, match="not installed"):
        interpreter("llamacpp", peer, tmp_path, install=False)
    assert not list(tmp_path.iterdir())


def test_the_mix_is_the_same_for_every_engine_and_shares_no_prefix() -> None:
    one, other = mix("round 1 with 16", 40), mix("round 2 with 16", 40)
    assert one == mix("round 1 with 16", 40)
    assert not {request.text for request in one} & {request.text for request in other}
    starts = {request.text[:6] for request in one}
    assert len(starts) == 40
    answers = [request.answer for request in one]
    assert 16 <= min(answers) < 30 < 60 < max(answers) <= 96
    assert {request.answer for request in mix("warm", 5, answer=6)} == {6}


def test_prompts_have_the_length_asked_for_and_differ_at_once() -> None:
    tokenizer = tiny_tokenizer()
    found = prompts(lambda text: tokenizer.encode(text).ids, 196, 4)
    assert [len(one) for one in found] == [196] * 4
    assert len({one[0] for one in found}) == 4


def test_an_answer_of_another_length_than_asked_for_is_a_failure() -> None:
    async def run() -> tuple[str, int]:
        async with scripted_upstream(lambda _: "only three words") as (url, seen):
            requests = mix("x", 2, answer=3) + mix("y", 1, answer=4)
            summary, firsts, why = await asyncio.to_thread(load, url, "m", requests, 2)
            assert (summary.requests, summary.failed, len(firsts)) == (3, 1, 2)
            assert all(body["ignore_eos"] is True for body in seen)
            return why, summary.output_tokens

    why, tokens = asyncio.run(run())
    assert why == "3 tokens instead of 4"
    assert tokens == 6


def test_drivers_live_where_the_catalogue_says() -> None:
    assert (measuring.DRIVERS / "protocol.py").is_file()
