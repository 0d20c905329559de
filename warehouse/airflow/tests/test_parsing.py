"""Every DAG parses in a plain environment, and says what it is."""

import os
import subprocess
import sys
from typing import Any

from runs import DAGS

FILES = sorted(path for path in DAGS.glob("*.py"))


def test_every_file_is_one_dag_without_errors(dags: Any) -> None:
    assert dags.import_errors == {}
    assert sorted(dags.dags) == sorted(f"fungible_{path.stem}" for path in FILES)


def test_each_dag_is_explicit_about_what_schedulers_guess(dags: Any) -> None:
    for dag in dags.dags.values():
        assert dag.catchup is False, dag.dag_id
        assert dag.max_active_runs in (1, 2, 4), dag.dag_id
        assert str(dag.timezone) == "UTC", dag.dag_id
        assert dag.start_date.utcoffset().total_seconds() == 0, dag.dag_id
        assert dag.doc_md.strip().startswith("###"), dag.dag_id
        assert "fungible" in dag.tags, dag.dag_id


def test_tasks_that_run_commands_are_tried_again_later_and_later(dags: Any) -> None:
    from fungible_tasks.commands import CommandOperator

    found = 0
    for dag in dags.dags.values():
        for task in dag.tasks:
            cls = getattr(task, "operator_class", type(task))
            if isinstance(cls, type) and issubclass(cls, CommandOperator):
                found += 1
                assert task.retries >= 2, task.task_id
                assert task.retry_exponential_backoff == 2.0, task.task_id
                assert task.execution_timeout is not None, task.task_id
    assert found >= len(FILES)


def test_parsing_reads_no_variable_and_no_file_but_its_own() -> None:
    """Airflow parses all the time: a DAG must not ask the database, the network or the inbox."""
    program = f"""
import sys
from pathlib import Path
from airflow.sdk import Variable
from airflow.dag_processing.dagbag import BundleDagBag

def asked(*args, **options):
    raise AssertionError("a variable was read")

Variable.get = asked
watching = False

def watch(event, args):
    if not watching:
        return
    if event in ("socket.connect", "subprocess.Popen", "os.system"):
        seen.append((event, args))
    if event == "open" and "/inbox/" in str(args[0]):
        seen.append((event, args))

seen = []
sys.addaudithook(watch)
watching = True
bag = BundleDagBag(dag_folder={str(DAGS)!r}, bundle_path=Path({str(DAGS)!r}), bundle_name="dags")
watching = False
assert bag.dags and not bag.import_errors, bag.import_errors
assert not seen, seen
"""
    env = os.environ | {"FUNGIBLE_INBOX": "/inbox/"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
