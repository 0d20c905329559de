"""Runs of DAGs in this process by Airflow's own `dag.test()`."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"


class Run:
    """A finished DAG run.

    Attributes:
        state: Of the run.
        states: Of each task; a mapped task's instances are a list.
    """

    def __init__(self, dag_run: Any) -> None:
        self._dag_run = dag_run
        self.state = str(dag_run.state)
        self.states: dict[str, Any] = {}
        self.tries: dict[str, int] = {}
        for instance in sorted(dag_run.get_task_instances(), key=lambda each: each.map_index):
            state = str(instance.state)
            self.tries[instance.task_id] = instance.try_number
            if instance.map_index < 0:
                self.states[instance.task_id] = state
            else:
                self.states.setdefault(instance.task_id, []).append(state)

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task left."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            query = XComModel.get_many(
                run_id=self._dag_run.run_id,
                dag_ids=self._dag_run.dag_id,
                task_ids=task_id,
                key=key,
                map_indexes=map_index,
            )
            row = session.scalars(query).first()
        return None if row is None else XComModel.deserialize_value(row)


@pytest.fixture(scope="session")
def database() -> None:
    """Airflow's own tables."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def dags(database: None) -> Any:
    """All DAGs, parsed with the environment of the test."""
    return parse(DAGS)


@pytest.fixture
def run_dag(database: None) -> Callable[..., Run]:
    """Parse again, and run one DAG to its end."""

    def run(dag_id: str, *, retry: int = 0, **options: Any) -> Run:
        dag = parse(DAGS).dags[dag_id]
        hurry(dag, retry)
        return Run(dag.test(**options))

    return run


def parse(folder: Path) -> Any:
    """A bag of the DAGs in a folder, which is put on Python's path as a DAG processor does it."""
    from airflow.dag_processing.dagbag import BundleDagBag

    return BundleDagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="dags-folder")


def hurry(dag: Any, retries: int) -> None:
    """So many retries without a wait, and sensors that look once: tests have no hour."""
    for task in dag.tasks:
        task.retries = retries
        task.retry_delay = timedelta(0)
        task.retry_exponential_backoff = 0
        if hasattr(task, "watch"):
            task.watch = timedelta(0)
