import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from fungible.cli.evals import evals
from fungible.contract.events import EvalItemEvent, VerdictEvent
from fungible.errors import ConfigError, InputError, MissingExtraError, UnavailableError
from support.scripted_upstream import scripted_upstream
from support.spool_records import spool_records

ITEMS = 60
CONFIG = """
home = "home"
[backend.old]
url = "{url}"
model = "old"
[backend.new]
url = "{url}"
model = "new"
[backend.local]
engine = {{ artifact = "a" }}
[route.assistant]
reference = "old"
backends = ["new"]
"""


def answer(body: dict[str, Any]) -> str:
    """`old` has two in three right; `new` answers like `old` unless the question says so."""
    number = int(body["messages"][-1]["content"].split()[-1])
    wrong = number % 3 == 0 or (body["model"] == "broken" and number % 2 == 0)
    return "none" if wrong else str(number)


@pytest.fixture
def upstream() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    urls: list[str] = []
    ready = asyncio.Event()

    async def serve() -> None:
        async with scripted_upstream(answer) as (url, _):
            urls.append(url)
            ready.set()
            await stop.wait()

    thread = Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    asyncio.run_coroutine_threadsafe(ready.wait(), loop).result(10)
    yield urls[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def config(tmp_path: Path, upstream: str) -> Path:
    path = tmp_path / "fungible.toml"
    path.write_text(CONFIG.format(url=upstream))
    return path


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [{"suite": "numbers"}]
    rows += [
        {
            "id": str(at),
            "cluster": "c",
            "messages": [{"role": "user", "content": f"say {at}"}],
            "max_tokens": 4,
            "scorer": {"kind": "number", "value": at},
        }
        for at in range(ITEMS)
    ]
    path = tmp_path / "numbers.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(evals, [str(one) for one in arguments])


def results_file(path: Path, wrong: set[int], n: int = 240, **fields: object) -> Path:
    rows = [{"item_id": str(at), "score": float(at not in wrong)} | fields for at in range(n)]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    return path


def test_plan_says_what_a_run_could_see() -> None:
    result = invoke("plan", "--json")
    plan = msgspec.json.decode(result.stdout)
    assert (plan["items"], plan["margin"]) == (240, 0.05)
    assert plan["foresight"][2]["items_needed"] <= 240
    assert plan["plan_hash"] in invoke("plan").stdout


def test_run_records_a_pass(config: Path, suite: Path, tmp_path: Path) -> None:
    result = invoke(
        "run", "--suite", suite, "--config", config, "--backend", "new", "--json",
        "--save", tmp_path / "saved", "--margin", "0.1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    printed = msgspec.json.decode(result.stdout, type=VerdictEvent)
    assert (printed.outcome, printed.candidate, printed.reference) == ("pass", "new", "old")
    assert printed.binding != printed.reference_binding
    spool = tmp_path / "home" / "spool"
    assert spool_records(spool, VerdictEvent) == [printed]
    assert len(spool_records(spool, EvalItemEvent)) == 3 * ITEMS
    again = invoke(
        "gate", tmp_path / "saved/reference.jsonl", tmp_path / "saved/candidate.jsonl",
        "--again", tmp_path / "saved/again.jsonl", "--margin", "0.1", "--json",
    )  # fmt: skip
    assert again.exit_code == 0
    decided = msgspec.json.decode(again.stdout, type=VerdictEvent)
    assert decided.metrics == printed.metrics


def test_run_fails_a_broken_candidate(config: Path, suite: Path) -> None:
    config.write_text(config.read_text().replace('model = "new"', 'model = "broken"'))
    result = invoke("run", "--suite", suite, "--config", config, "--backend", "new")
    assert result.exit_code == 1, result.output
    assert "fail: new against old" in result.stdout
    assert "the loss is 33.3 points" in result.stdout


def test_run_against_a_dead_backend_is_refused(config: Path, suite: Path) -> None:
    text = config.read_text()
    url = text.split('url = "')[1].split('"')[0]
    config.write_text(text.replace(url, "http://127.0.0.1:9/v1", 2).replace("9/v1", "1/v1"))
    result = invoke("run", "--suite", suite, "--config", config, "--backend", "new")
    assert result.exit_code == 3, result.output
    assert "of the reference's requests failed" in result.stdout


@pytest.mark.parametrize(
    ("wrong", "code", "outcome"),
    [
        (set(range(60)), 0, "pass"),
        (set(range(140)), 1, "fail"),
        ({*range(60), 100, 101, 102, 103, 104, 105, 106}, 3, "inconclusive"),
    ],
)
def test_gate_needs_only_ids_and_scores(
    tmp_path: Path, wrong: set[int], code: int, outcome: str
) -> None:
    ours = results_file(tmp_path / "a.jsonl", set(range(60)))
    theirs = results_file(tmp_path / "b.jsonl", wrong)
    result = invoke("gate", ours, theirs, "--json")
    assert result.exit_code == code, result.output
    assert msgspec.json.decode(result.stdout)["outcome"] == outcome


def test_gate_refuses_a_small_sample(tmp_path: Path) -> None:
    small = results_file(tmp_path / "a.jsonl", {1, 2, 3}, n=20)
    result = invoke("gate", small, small)
    assert result.exit_code == 3
    assert "at least 30 are needed" in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no results"),
        ("{", "a.jsonl:1"),
        ('{"item_id": "x"}', "a.jsonl:1.*score"),
        ('{"item_id": "x", "score": 2}', r"a.jsonl:1.*must be in \[0, 1\]"),
        ('{"item_id": "x", "score": 1}\n{"item_id": "x", "score": 1}', "a.jsonl:2.*twice"),
    ],
)
def test_gate_names_the_bad_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    result = invoke("gate", path, path)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=said):
        raise result.exception


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (["--backend", "nobody"], ConfigError, "unknown backend 'nobody'"),
        (["--backend", "new", "--model", "m"], ConfigError, "unknown model 'm'"),
        (["--backend", "old"], InputError, "reference itself"),
        (["--backend", "local"], UnavailableError, "not running"),
        (["--backend", "new", "--suite", "nowhere"], ConfigError, "nowhere"),
    ],
)
def test_run_with_wrong_names_is_one_error(
    config: Path, options: list[str], kind: type[Exception], said: str
) -> None:
    result = invoke("run", "--config", config, *options)
    assert isinstance(result.exception, kind)
    assert said in str(result.exception)


def test_without_numpy_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.delitem(sys.modules, "fungible.evals.stats")
    with pytest.raises(MissingExtraError) as caught:
        importlib.import_module("fungible.evals.stats")
    assert "fungible[evals]" in caught.value.hint
