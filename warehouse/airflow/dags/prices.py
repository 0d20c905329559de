"""Price sheets and exchange rates that were put into the inbox, into the ledger."""

from datetime import timedelta

from airflow.sdk import DAG, Param

from fungible_tasks.files import ChangeSensor, IngestOperator
from fungible_tasks.schedules import DEFAULT_ARGS, PRICES, START, TAGS

DOC = """
### Prices

Watches the folders `prices/` (sheets: CSV, YAML, XLSX) and `rates/` (exchange rates) of the inbox
and imports what is new or changed, file by file: `fungible ingest prices FILE --json`, and `rates`.
A sheet replaces what the sheet of that name said before, from now on; older reports stay.

A sheet with an error is refused whole: its task fails at once, with the cell in the log, and the
other sheets are imported. Each hour's run watches for 55 minutes and is `skipped` when nothing
changed. Parameter `again`: import all files although they did not change.
"""

with DAG(
    "fungible_prices",
    description="Price sheets and rates from a folder or a bucket",
    schedule="@hourly",
    start_date=START,
    catchup=False,
    max_active_runs=2,  # a run by hand need not wait for the watching one
    default_args=DEFAULT_ARGS,
    params={"again": Param(default=False, type="boolean", description="Import unchanged files")},
    tags=TAGS,
    doc_md=DOC,
) as dag:
    for stream in ("prices", "rates"):
        ingest = IngestOperator(
            task_id=f"ingest_{stream}", stream=stream, folder=stream, asset=PRICES, batch=1
        )
        watch = ChangeSensor(
            task_id=f"watch_{stream}",
            folder=stream,
            importer=f"ingest_{stream}",
            poke_interval=60,
            watch=timedelta(minutes=55),
        )
        watch >> ingest
