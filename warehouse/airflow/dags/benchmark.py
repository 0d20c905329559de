"""Performance of each backend on a recorded traffic shape, every Tuesday."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, task

from fungible_tasks.commands import FungibleOperator
from fungible_tasks.plans import compare_arguments, replay_arguments
from fungible_tasks.schedules import DEFAULT_ARGS, START, TAGS

DOC = """
### Benchmark

Every Tuesday at 03:00 UTC: `fungible bench replay` of `FUNGIBLE_BENCH_TRACE` against each backend
of `FUNGIBLE_BENCH_BACKENDS`, then `fungible bench compare` of each further one with the first, in
interleaved blocks. One at a time, because measurements at once would measure each other.

A replay that is not valid (exit code 3, such as requests sent late because this machine was busy)
is tried again twice. The attempts are in the ledger as kind `bench`: they never count as traffic.
"""
RETRIES = {"retries": 2, "execution_timeout": timedelta(hours=4)}

with DAG(
    "fungible_benchmark",
    description="A replay of recorded traffic, on Tuesdays",
    schedule=CronTriggerTimetable("0 3 * * 2", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | RETRIES,
    tags=TAGS,
    doc_md=DOC,
) as dag:

    @task
    def backends() -> list[tuple[str, ...]]:
        """Command lines of `bench replay`."""
        return replay_arguments()

    @task
    def pairs() -> list[tuple[str, ...]]:
        """Command lines of `bench compare`."""
        return compare_arguments()

    def per_line(task_id: str, lines: Any) -> Any:
        """One task per command line, one at a time."""
        return FungibleOperator.partial(
            task_id=task_id, max_active_tis_per_dagrun=1, again=(3,)
        ).expand(arguments=lines)

    replays = per_line("replay", backends())
    others = pairs()
    replays >> others
    per_line("compare", others)
