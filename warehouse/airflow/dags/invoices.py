"""Invoices that were put into the inbox, into the ledger."""

from datetime import timedelta

from airflow.sdk import DAG, Param

from fungible_tasks.files import ChangeSensor, IngestOperator
from fungible_tasks.schedules import DEFAULT_ARGS, INVOICES, START, TAGS

DOC = """
### Invoices

Watches the folder `invoices/` of the inbox for invoices (FOCUS, AWS cost and usage reports, plain
tables) that are new or changed, and imports them: `fungible ingest invoice FILE… --json`. Late
invoices and credit notes restate their own periods.

Each hour's run watches for 55 minutes and is `skipped` when nothing changed. Parameter `again`:
import all invoices although they did not change.
"""

with DAG(
    "fungible_invoices",
    description="Invoices from a folder or a bucket",
    schedule="@hourly",
    start_date=START,
    catchup=False,
    max_active_runs=2,  # a run by hand need not wait for the watching one
    default_args=DEFAULT_ARGS,
    params={"again": Param(default=False, type="boolean", description="Import unchanged files")},
    tags=TAGS,
    doc_md=DOC,
) as dag:
    watch = ChangeSensor(
        task_id="watch",
        folder="invoices",
        importer="ingest",
        poke_interval=60,
        watch=timedelta(minutes=55),
    )
    watch >> IngestOperator(task_id="ingest", stream="invoice", folder="invoices", asset=INVOICES)
