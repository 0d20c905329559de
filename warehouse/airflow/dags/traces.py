"""Spans that tracing recorded, into the ledger, hour by hour."""

from airflow.sdk import DAG, CronDataIntervalTimetable

from fungible_tasks.files import HOURLY, ArrivalSensor, IngestOperator
from fungible_tasks.schedules import DEFAULT_ARGS, START, TAGS, TRACES

DOC = """
### Traces

Imports spans of model calls (OTLP files, as an OpenTelemetry collector's file exporter writes them)
from the hour's folder `traces/dt=YYYY-MM-DD/hour=HH/` of the inbox (UTC):
`fungible ingest traces FILE… --json`. Live spans need none of this: send them to control's
receiver, `POST /v1/traces`.

Each hour is a data interval, so the past is a backfill:
`airflow backfill create --dag-id fungible_traces --from-date 2026-11-01 --to-date 2026-11-08`.
Hours may come in any order and again. An hour without files is waited for as long as
`FUNGIBLE_PATIENCE_MINUTES` says, counted from its end, and then `skipped`.
"""

with DAG(
    "fungible_traces",
    description="Spans of requests, by the hour",
    schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=4,
    default_args=DEFAULT_ARGS,
    tags=TAGS,
    doc_md=DOC,
) as dag:
    folder = f"traces/{HOURLY}"
    arrive = ArrivalSensor(
        task_id="arrive",
        folder=folder,
        poke_interval=120,
    )
    arrive >> IngestOperator(task_id="ingest", stream="traces", folder=folder, asset=TRACES)
