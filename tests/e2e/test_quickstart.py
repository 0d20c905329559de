"""The whole promise, through the command line, as a stranger runs it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

FUNGIBLE = [sys.executable, "-m", "fungible"]


def fungible(*arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FUNGIBLE, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def sql(home: Path, query: str) -> list[list[Any]]:
    done = fungible("cost", "sql", query, "--home", str(home), "--json", timeout=120)
    assert done.returncode == 0, done.stderr
    rows: list[list[Any]] = json.loads(done.stdout)["rows"]
    return rows


def processes_of(home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(home) in line and process.pid != os.getpid():
            found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "home"


@pytest.fixture(scope="module")
def result(home: Path) -> dict[str, Any]:
    ports = ["--gateway-port", "0", "--control-port", "0"]
    done = fungible("quickstart", "--exit", "--json", "--home", str(home), *ports)
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_winner_passed_and_was_promoted(result: dict[str, Any], home: Path) -> None:
    rows = {row["name"]: row for row in result["backends"]}
    winner = rows[result["winner"]]
    assert winner["verdict"] == "pass"
    assert len({row["target"].split(":")[0] for row in rows.values()}) >= 2
    judged = [row for row in rows.values() if row["verdict"] == "pass"]
    nets = [Decimal(row["net_usd_per_accepted"]) for row in judged]
    assert Decimal(winner["net_usd_per_accepted"]) == min(nets)
    states = sql(home, "select to_state from migrations order by at_ns")
    assert ["promoted"] in states
    shown = fungible("route", "show", "--home", str(home), "--json")
    if shown.returncode == 0:
        assert result["winner"] in shown.stdout


def test_the_naive_variant_is_refused_with_numbers(result: dict[str, Any], home: Path) -> None:
    naive = next(row for row in result["backends"] if row["variant"] == "int4-naive")
    assert naive["verdict"] in {"fail", "refused"}
    rows = sql(home, f"select reasons from verdicts where candidate = '{naive['name']}'")
    assert any(character.isdigit() for character in json.dumps(rows))
    served = sql(
        home,
        f"select count() from attempts where backend = '{naive['name']}' and kind = 'serve'",
    )
    assert served == [[0]]


def test_every_answered_request_is_a_priced_row(result: dict[str, Any], home: Path) -> None:
    assert result["backends"]
    rows = sql(
        home,
        "select backend, count(), countIf(cost is null and status = 'ok'), "
        "toString(sum(cost)) from attempts group by backend",
    )
    assert len(rows) == len(result["backends"])
    for _, attempts, unpriced, cost in rows:
        assert attempts > 0
        assert unpriced == 0
        assert Decimal(cost) > 0


def test_attempts_plus_idle_equal_price_times_hours(result: dict[str, Any], home: Path) -> None:
    assert result["winner"]
    billed = dict(
        sql(home, "select backend, toString(sum(cost)) from attempts group by backend")  # type: ignore[arg-type]
    )
    idle = dict(
        sql(home, "select backend, toString(sum(amount)) from idle group by backend")  # type: ignore[arg-type]
    )
    leases = sql(
        home,
        "select backend, lease_id, min(started_ns), max(seen_ns) from leases "
        "group by backend, lease_id",
    )
    price = Decimal("0.0900")
    for backend, total in billed.items():
        spans = [(int(a), int(b)) for name, _, a, b in leases if name == backend]
        owed = sum((price * (b - a) / Decimal(3_600 * 10**9) for a, b in spans), Decimal(0))
        quantum = Decimal(1).scaleb(-18)
        whole = Decimal(total) + Decimal(idle[backend])
        assert abs(whole - owed) <= quantum * len(spans), backend


def test_nothing_is_left_running(result: dict[str, Any], home: Path) -> None:
    assert result["winner"]
    assert processes_of(home) == []


def test_ctrl_c_leaves_no_process(result: dict[str, Any], home: Path) -> None:
    assert result["winner"]
    ports = ["--gateway-port", "0", "--control-port", "0"]
    child = subprocess.Popen(
        [*FUNGIBLE, "quickstart", "--home", str(home), *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    for line in child.stderr:
        if "burst" in line:
            break
    assert len(processes_of(home)) > 4
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=90)
    assert child.returncode == 130
    assert processes_of(home) == []


@pytest.fixture(scope="module")
def running(result: dict[str, Any], home: Path) -> Iterator[str]:
    assert result["winner"]
    command = [*FUNGIBLE, "up", "--config", str(home / "fungible.toml"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield json.loads(child.stdout.readline())["gateway"]
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(timeout=90)


def test_the_stock_client_only_changes_its_base_url(running: str) -> None:
    client = openai.OpenAI(base_url=f"{running}/v1", api_key="fungible-demo")
    stranger = openai.OpenAI(base_url=f"{running}/v1", api_key="wrong")
    answer = client.chat.completions.create(
        model="assistant",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
        temperature=0,
    )
    text = answer.choices[0].message.content
    assert text
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    stream = client.chat.completions.create(
        model="assistant",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
        temperature=0,
        stream=True,
    )
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == text
    )
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model="nobody", messages=[{"role": "user", "content": "Hello"}]
        )
    client.close()
    stranger.close()


def test_the_readmes_python_runs_as_it_stands(running: str) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert "http://127.0.0.1:8080" in code
    code = code.replace("http://127.0.0.1:8080", running)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
