"""API responses that other gateways recorded, into the ledger, hour by hour."""

from airflow.sdk import DAG, CronDataIntervalTimetable

from fungible_tasks.files import HOURLY, ArrivalSensor, IngestOperator
from fungible_tasks.schedules import DEFAULT_ARGS, RESPONSES, START, TAGS

DOC = """
### Responses

Imports what other gateways recorded (OpenAI and Anthropic bodies, LiteLLM and Langfuse exports,
JSONL) from the hour's folder `responses/dt=YYYY-MM-DD/hour=HH/` of the inbox (UTC):
`fungible ingest responses FILE… --json`.

Each hour is a data interval, so the past is a backfill:
`airflow backfill create --dag-id fungible_responses --from-date 2026-11-01 --to-date 2026-11-08`.
Hours may come in any order and again. An hour without files is waited for as long as
`FUNGIBLE_PATIENCE_MINUTES` says, counted from its end, and then `skipped`.
"""

with DAG(
    "fungible_responses",
    description="API responses of other gateways, by the hour",
    schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=4,
    default_args=DEFAULT_ARGS,
    tags=TAGS,
    doc_md=DOC,
) as dag:
    folder = f"responses/{HOURLY}"
    arrive = ArrivalSensor(
        task_id="arrive",
        folder=folder,
        poke_interval=120,
    )
    arrive >> IngestOperator(task_id="ingest", stream="responses", folder=folder, asset=RESPONSES)
