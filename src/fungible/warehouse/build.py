"""One run of `dbt build`, and what came of each node."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fungible.errors import ConfigError, UnavailableError
from fungible.warehouse.environment import clean_environment

PASSED = ("success", "pass", "no-op")
_CONNECTION = ("failed to connect", "Connection refused", "AUTHENTICATION_FAILED", "Max retries")


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one model or test.

    Attributes:
        kind: `model`, `test` or `unit_test`.
        status: dbt's: `success`, `pass`, `warn`, `fail`, `error`, `skipped`.
        failures: Rows that a test found, of those that there should not be.
        sql: What was asked; of nodes that failed only.
    """

    name: str
    kind: str
    status: str
    seconds: float
    failures: int = 0
    message: str = ""
    sql: str = ""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A whole build. `ok` says that nothing failed; skipped nodes wait for one that did."""

    ok: bool
    database: str
    seconds: float
    nodes: list[Node]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: dbt's executable, its project, where it may write, and its options."""

    dbt: Path
    project: Path
    folder: Path
    environment: Mapping[str, str]
    options: Sequence[str] = ()


def build(job: Job, database: str, progress: Callable[[int, int], None]) -> Built:
    """Run `dbt build` to its end.

    Args:
        job: See `Job`.
        database: Where the marts are; reported.
        progress: Called with nodes done and nodes in all.

    Raises:
        ConfigError: dbt refused the project or the selection.
        UnavailableError: dbt could not start, or could not reach ClickHouse.
    """
    results = job.folder / "target" / "run_results.json"
    results.unlink(missing_ok=True)
    said = _run(job, progress)
    nodes, seconds = _nodes(results)
    if any(word in node.message for node in nodes for word in _CONNECTION) or (
        not nodes and any(word in line for line in said for word in _CONNECTION)
    ):
        raise UnavailableError(f"dbt cannot reach ClickHouse: {_first(nodes, said)}")
    if not nodes:
        if any("does not match any" in line or "Nothing to do" in line for line in said):
            raise ConfigError("no model or test is selected", hint="see dbt's node selection")
        raise ConfigError(f"dbt: {_first(nodes, said)}", hint=f"see {job.folder / 'dbt.log'}")
    ok = all(node.status in (*PASSED, "warn") for node in nodes)
    return Built(ok=ok, database=database, seconds=seconds, nodes=nodes)


def _run(job: Job, progress: Callable[[int, int], None]) -> list[str]:
    """Errors and warnings that dbt printed."""
    project = str(job.project)
    command = [str(job.dbt), "--no-version-check", "--log-format", "json", "--log-path"]
    command += [str(job.folder), "build", "--project-dir", project, "--profiles-dir", project]
    command += ["--target-path", str(job.folder / "target"), *job.options]
    said: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            env=clean_environment() | dict(job.environment),
            cwd=job.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except OSError as error:
        raise UnavailableError(f"{job.dbt}: cannot be run: {error}") from error
    assert process.stdout is not None  # noqa: S101  # asked for a pipe
    with process:
        try:
            done = 0
            for line in process.stdout:
                event = _event(line)
                info, data = event.get("info", {}), event.get("data", {})
                if info.get("name") == "NodeFinished":
                    done += 1
                elif isinstance(data.get("total"), int):
                    progress(done, data["total"])
                if info.get("level") in ("error", "warn"):
                    said.append(str(info.get("msg", "")))
                elif not event:
                    said.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    return said


def _event(line: str) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return event if isinstance(event, dict) else {}


def _first(nodes: Sequence[Node], said: Sequence[str]) -> str:
    texts = [node.message for node in nodes if node.status == "error"] + list(said)
    lines = [" ".join(text.split()) for text in texts if text.strip()]
    return lines[0][:600] if lines else "it ended without a word"


def _nodes(results: Path) -> tuple[list[Node], float]:
    try:
        found = msgspec.json.decode(results.read_bytes())
    except FileNotFoundError:
        return [], 0.0
    # An exposure says who reads the marts: dbt lists it, and there is nothing to build.
    built = [one for one in found["results"] if not one["unique_id"].startswith("exposure.")]
    return [_node(one) for one in built], float(found["elapsed_time"])


def _node(result: Mapping[str, Any]) -> Node:
    kind, _, name = result["unique_id"].split(".", 2)
    status = result["status"]
    return Node(
        name=name.rsplit(".", 1)[0] if kind == "test" else name,
        kind=kind,
        status=status,
        seconds=round(result["execution_time"], 3),
        failures=result.get("failures") or 0,
        message="" if status in PASSED else " ".join(str(result.get("message") or "").split()),
        sql=(result.get("compiled_code") or "").strip()
        if status in ("fail", "warn", "error")
        else "",
    )
