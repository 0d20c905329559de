"""Billed against priced, when a month is over."""

import logging
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, AssetAll, AssetOrTimeSchedule, CronTriggerTimetable, Param, task
from airflow.sdk.exceptions import AirflowFailException

from fungible_tasks.commands import FungibleOperator
from fungible_tasks.plans import closing_month
from fungible_tasks.reports import in_markdown
from fungible_tasks.schedules import DEFAULT_ARGS, INVOICES, MONTH, START, TAGS, WAREHOUSE
from fungible_tasks.settings import at_parse

log = logging.getLogger(__name__)

DOC = """
### Month close

On the 5th at 06:00 UTC, and whenever invoices came in and the warehouse was built after them:
`fungible cost reconcile --month YYYY-MM --json` for the last full month, or for parameter `month`.

`report` is the result as a page in Markdown (the task's XCom and log): each issuer's billed,
priced, known gaps and what is unexplained.
`decide` fails when more than 1 % of what an issuer billed is
unexplained, or when there is no invoice to compare with. With `FUNGIBLE_APPROVAL=1` the report then
waits for a person, who approves or rejects it under Required Actions; a rejection fails the run.
"""

with DAG(
    "fungible_month_close",
    description="Billed = priced + known gaps + unexplained",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 6 5 * *", timezone="UTC"),
        assets=AssetAll(INVOICES, WAREHOUSE),
    ),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={"month": Param(default="", type="string", description="YYYY-MM; empty: the last one")},
    user_defined_macros={"closing_month": closing_month},
    tags=TAGS,
    doc_md=DOC,
) as dag:
    month = "{{ closing_month(params.month, dag_run.run_after) }}"
    reconcile = FungibleOperator(
        task_id="reconcile",
        arguments=("cost", "reconcile", "--month", month),
        # The report is written in any case, and then decides.
        accept=(1, 3),
    )

    @task
    def report(found: dict[str, Any]) -> str:
        """The reconciliation as a page for people."""
        page = in_markdown(found)
        log.info("%s", page)
        return page

    @task(outlets=[] if at_parse("APPROVAL") else [MONTH])
    def decide(found: dict[str, Any]) -> str:
        """The outcome, if the month may be closed."""
        outcome = str(found["outcome"])
        if outcome not in ("within", "empty"):
            raise AirflowFailException(f"the reconciliation is {outcome}: see the report")
        return outcome

    page = report(reconcile.output)
    decision = decide(reconcile.output)
    page >> decision
    if at_parse("APPROVAL"):
        decision >> ApprovalOperator(
            task_id="approve",
            subject="Close the month?",
            body="{{ ti.xcom_pull(task_ids='report') }}",
            fail_on_reject=True,
            execution_timeout=timedelta(days=14),
            outlets=[MONTH],
        )
