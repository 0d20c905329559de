"""Quality of each candidate backend, every night."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task

from fungible_tasks.commands import FungibleOperator
from fungible_tasks.plans import drift_arguments, eval_arguments, night
from fungible_tasks.schedules import DEFAULT_ARGS, START, TAGS

DOC = """
### Evals

Every night at 01:30 UTC, for each backend of `FUNGIBLE_EVAL_BACKENDS`, one after the other:
`fungible eval run --backend NAME --suite FUNGIBLE_EVAL_SUITE`, which asks the route's reference,
too, and records the verdict that migrations look for. With `FUNGIBLE_EVAL_RESULTS` (a folder) the
items' results are kept by day, and `fungible eval gate` compares tonight's answers of each backend
with last night's: a model that its provider changed is noticed even if nothing moved here.

A verdict that is not `pass` (`fail`, `inconclusive`, `refused`) fails its task without a retry,
because asking again until it passes is not evidence; the verdict is the task's XCom `answer`.
"""

with DAG(
    "fungible_evals",
    description="Verdicts on candidates, every night",
    schedule=CronTriggerTimetable("30 1 * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(hours=6)},
    tags=TAGS,
    doc_md=DOC,
) as dag:

    @task
    def candidates() -> list[tuple[str, ...]]:
        """Command lines of `eval run`, one per backend."""
        return eval_arguments(night(get_current_context()))

    @task(trigger_rule="all_done")
    def nights() -> list[tuple[str, ...]]:
        """Command lines of `eval gate`, one per backend with results of two nights."""
        return drift_arguments(night(get_current_context()))

    def per_line(task_id: str, lines: Any, **options: Any) -> Any:
        """One task per command line, one at a time: they would disturb each other."""
        return FungibleOperator.partial(
            task_id=task_id, max_active_tis_per_dagrun=1, **options
        ).expand(arguments=lines)

    run = per_line("run", candidates())
    two = nights()
    run >> two
    drift = per_line("drift", two, placed=False)
    # The last task decides the run's state, and it must not forget a failure before it.
    [run, drift] >> EmptyOperator(task_id="held", trigger_rule="none_failed")
