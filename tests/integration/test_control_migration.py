"""Real control and gateway processes: traffic moves by evidence, and comes back."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fungible.config import Config, MigrationPolicy
from fungible.ledger.spool import SpoolWriter
from support.control_setup import (
    CANDIDATE,
    MODEL,
    REFERENCE,
    config_in,
    verdict_on,
    write_config,
)
from support.processes import FUNGIBLE, Server, ask, chat

# Looser than the defaults, so that a few dozen requests decide.
QUICK = MigrationPolicy(
    shadow_margin=0.3,
    shadow_min_pairs=8,
    canary_margin=0.3,
    canary_min_attempts=4,
    canary_steps=(0.4, 0.6),
)


class Loop:
    """A home with control and gateway running in it."""

    def __init__(self, config: Config, control: Server, gateway: Server) -> None:
        self.config = config
        self.control = control
        self.gateway = gateway

    @property
    def token(self) -> str:
        return (self.config.home_path() / "run" / "control.token").read_text()

    def post(self, path: str, body: object = None) -> tuple[int, Any]:
        return ask(self.control.url, "POST", path, body, token=self.token)

    def get(self, path: str) -> Any:
        status, body = ask(self.control.url, "GET", path, token=self.token)
        assert status == 200, body
        return body

    def follows(self, version: int) -> None:
        """Wait until the gateway routes by this version: it looks four times a second."""
        deadline = time.monotonic() + 30
        while ask(self.gateway.url, "GET", "/health")[1]["route_version"] != version:
            assert time.monotonic() < deadline, f"the gateway never loaded version {version}"
            time.sleep(0.05)

    def admit(self) -> None:
        """Write a passing verdict the way an eval run does: into the spool."""
        spool = SpoolWriter(self.config.spool_path(), "eval")
        spool.write(verdict_on(self.config))
        spool.close()

    def start(self) -> tuple[int, Any]:
        return self.post("/api/migrations", {"model": MODEL, "candidate": CANDIDATE})

    def drive(self, migration_id: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Send traffic until the migration is where the test wants it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            chat(self.gateway.url, 8)
            found: dict[str, Any] = self.get(f"/api/migrations/{migration_id}")
            if until(found):
                return found
        pytest.fail(f"still {found}")

    def sql(self, query: str) -> list[list[Any]]:
        status, body = self.post("/api/sql", {"query": query})
        assert status == 200, body
        rows: list[list[Any]] = body["rows"]
        return rows


@contextmanager
def loop_in(home: Path, **candidate: Any) -> Iterator[Loop]:
    config = config_in(home, candidate=candidate, policy=QUICK)
    path = str(write_config(config))
    with (
        Server("control", "serve", "--config", path) as control,
        Server("gateway", "serve", "--config", path) as gateway,
    ):
        yield Loop(config, control, gateway)


def ended(migration: dict[str, Any]) -> bool:
    return migration["state"] in ("promoted", "rolled_back")


def in_state(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda migration: migration["state"] == state


def test_without_a_verdict_it_is_refused_and_on_record(tmp_path: Path) -> None:
    with loop_in(tmp_path) as loop:
        status, body = loop.start()
        assert status == 409
        assert "cand has no verdict" in body["error"]["message"]
        assert body["error"]["code"] == "refused"
        assert [item["state"] for item in loop.get("/api/migrations")["data"]] == ["refused"]
        assert loop.get("/api/routes")["version"] == 0
        done = subprocess.run(
            [*FUNGIBLE, "migrate", "start", MODEL, CANDIDATE, "--home", str(tmp_path), "--config",
             str(tmp_path / "config.json"), "--json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 3
        assert "cand has no verdict" in json.loads(done.stdout)["error"]["message"]
        assert "Traceback" not in done.stderr
    edges = query(loop.config, "SELECT from_state, to_state FROM migrations")
    assert edges == [("requested", "refused")] * 2


def test_it_moves_through_shadow_and_canary_and_survives_kill_9_of_control(tmp_path: Path) -> None:
    with loop_in(tmp_path) as loop:
        loop.admit()
        status, started = loop.start()
        assert (status, started["state"]) == (201, "shadow")
        name = started["migration_id"]
        chat(loop.gateway.url, 4)
        loop.control.kill()
        # The data plane does not need control; rows wait in the spool.
        assert set(chat(loop.gateway.url, 6)) == {200}
        loop.control.start()
        loop.drive(name, in_state("canary"))
        loop.control.kill()
        assert set(chat(loop.gateway.url, 6)) == {200}
        loop.control.start()
        done = loop.drive(name, ended)
        assert done["state"] == "promoted", done["reason"]
        active = loop.get("/api/routes")
        assert active["routes"][MODEL]["weights"] == {CANDIDATE: 1.0}
        loop.follows(active["version"])
        chat(loop.gateway.url, 4)
        assert loop.control.stop() == 0
        assert not (tmp_path / "run" / "control.json").exists()
    # At least once: a control that is killed right after it wrote an event writes the same again.
    columns = "at_ns, to_state, reason"
    edges = query(loop.config, f"SELECT DISTINCT {columns} FROM migrations ORDER BY at_ns")
    assert [edge for _, edge, _ in edges] == ["gated", "shadow", "canary", "canary", "promoted"]
    assert all(reason for _, _, reason in edges)
    [(shadows, doubled)] = query(
        loop.config,
        "SELECT countIf(kind = 'shadow'), count() - uniq(attempt_id) FROM attempt_events",
    )
    assert shadows >= QUICK.shadow_min_pairs
    assert doubled == 0
    [(last,)] = query(
        loop.config, "SELECT argMax(backend, started_ns) FROM attempts WHERE kind = 'serve'"
    )
    assert last == CANDIDATE


def test_a_failing_candidate_comes_back_by_itself(tmp_path: Path) -> None:
    with loop_in(tmp_path, fail_rate=0.7) as loop:
        loop.admit()
        _, started = loop.start()
        done = loop.drive(started["migration_id"], ended)
        assert done["state"] == "rolled_back"
        route = loop.get("/api/routes")["routes"][MODEL]
        assert route["weights"] == {REFERENCE: 1.0}
        assert route["shadow"] is None
        # Clients never saw the candidate.
        assert loop.sql(f"SELECT count() FROM attempts WHERE backend = '{CANDIDATE}' "
                        "AND kind = 'serve'") == [[0]]  # fmt: skip
    [(reason, pairs)] = query(
        loop.config,
        "SELECT reason, evidence['pairs'] FROM migrations WHERE to_state = 'rolled_back'",
    )
    assert "E2" in reason or "in a row" in reason
    assert pairs > 0


def test_the_command_line_follows_to_promotion(tmp_path: Path) -> None:
    with loop_in(tmp_path) as loop:
        loop.admit()
        config = ["--config", str(tmp_path / "config.json")]
        plan = run("migrate", "plan", MODEL, CANDIDATE, *config)
        assert plan.returncode == 0, plan.stderr
        assert "verdict   ver_" in plan.stdout
        follower = subprocess.Popen(
            [*FUNGIBLE, "migrate", "start", MODEL, CANDIDATE, "--json", *config],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while follower.poll() is None and time.monotonic() < deadline:
            chat(loop.gateway.url, 8)
        out, err = follower.communicate(timeout=30)
        assert follower.returncode == 0, err
        assert json.loads(out)["state"] == "promoted"
        assert "canary 40%" in err
        shown = run("migrate", "status", *config)
        assert "assistant -> cand: promoted" in shown.stdout
        differs = run("route", "diff", "--json", *config)
        assert json.loads(differs.stdout)["routes"][0]["active"] == {CANDIDATE: 1.0}
    # Control is gone: the route file is still there, and says so.
    assert "cand 100%" in run("route", "show", *config).stdout
    gone = run("migrate", "status", *config)
    assert gone.returncode == 4
    assert "no control process runs" in gone.stderr


def test_the_operator_turns_back_by_the_command_line(tmp_path: Path) -> None:
    with loop_in(tmp_path) as loop:
        loop.admit()
        loop.start()
        config = ["--config", str(tmp_path / "config.json")]
        again = run("migrate", "start", MODEL, CANDIDATE, *config)
        assert again.returncode == 3
        assert "is being migrated" in again.stderr
        back = run("migrate", "rollback", MODEL, CANDIDATE, "--reason", "lunch", *config)
        assert back.returncode == 0, back.stderr
        assert "operator: lunch" in back.stdout
        nothing = run("migrate", "rollback", MODEL, CANDIDATE, *config)
        assert nothing.returncode == 2


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*FUNGIBLE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def query(config: Config, sql: str) -> list[tuple[Any, ...]]:
    """Ask the ledger that nobody runs any more, in a process of its own as the engine demands."""
    done = run("cost", "sql", sql, "--json", "--config", str(config.home_path() / "config.json"))
    assert done.returncode == 0, done.stderr
    return [tuple(row) for row in json.loads(done.stdout)["rows"]]
