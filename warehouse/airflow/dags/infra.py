"""Which machines there were: snapshots of Kubernetes and clouds, into the ledger, hour by hour."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from fungible_tasks.files import HOURLY, IngestOperator, SnapshotOperator
from fungible_tasks.schedules import DEFAULT_ARGS, INFRA, START, TAGS
from fungible_tasks.settings import setting

DOC = """
### Infrastructure

Imports what Kubernetes and clouds say about machines (node and pod JSON, EC2 DescribeInstances,
GCE, Azure, CSV) from the hour's folder `infra/dt=YYYY-MM-DD/hour=HH/` of the inbox (UTC):
`fungible ingest infra FILE… --json`.

Where nothing else writes these files, `FUNGIBLE_SNAPSHOTS` names the commands that do, as JSON:
`{"nodes": "kubectl get nodes -o json", "ec2": "aws ec2 describe-instances --output json"}`. Each
is one task, run at the end of the hour. Yesterday cannot be asked for: backfills import files only.
"""

with DAG(
    "fungible_infra",
    description="Snapshots of machines, by the hour",
    schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=4,
    default_args=DEFAULT_ARGS,
    tags=TAGS,
    doc_md=DOC,
) as dag:
    folder = f"infra/{HOURLY}"

    @task
    def choose() -> list[dict[str, Any]]:
        """The commands of this hour: none when the hour is long past."""
        end = get_current_context()["data_interval_end"]
        if datetime.now(UTC) > end + timedelta(hours=1):
            raise AirflowSkipException("the hour is past: only its files are imported")
        commands = json.loads(setting("SNAPSHOTS"))
        return [{"name": name, "argv": shlex.split(line)} for name, line in commands.items()]

    snapshots = SnapshotOperator.partial(task_id="snapshot", folder=folder).expand_kwargs(choose())
    snapshots >> IngestOperator(
        task_id="ingest", stream="infra", folder=folder, asset=INFRA, trigger_rule="none_failed"
    )
