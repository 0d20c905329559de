"""The marts, built by dbt when imports brought something, and by the hour."""

from datetime import timedelta
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

from fungible_tasks.commands import FungibleOperator
from fungible_tasks.schedules import DEFAULT_ARGS, IMPORTED, START, TAGS, WAREHOUSE
from fungible_tasks.settings import at_parse

DOC = """
### Warehouse

Builds and tests the marts. Runs after any import (their assets) and at 20 past each hour, because
Fungible's own gateways write into the ledger without Airflow.

`FUNGIBLE_WAREHOUSE=build` (the default) is one task, `fungible warehouse build --json`.
`FUNGIBLE_WAREHOUSE=cosmos` shows each model and test as a task of its own through Cosmos: dbt runs
as a process from its own environment (`FUNGIBLE_DBT`), the graph is read from the manifest that
`dbt parse` wrote (`FUNGIBLE_DBT_MANIFEST`). It costs a start of dbt per node, about five seconds.
"""
# Next to this folder in the repository.
PROJECT = Path(__file__).resolve().parents[2] / "dbt"


def cosmos_group() -> None:
    """One task per dbt node; the last one brings the asset up to date."""
    from cosmos import (  # noqa: PLC0415  # two seconds, for those who use it
        DbtTaskGroup,
        ExecutionConfig,
        InvocationMode,
        LoadMode,
        ProfileConfig,
        ProjectConfig,
        RenderConfig,
    )

    project = Path(at_parse("DBT_PROJECT") or PROJECT)
    manifest = Path(at_parse("DBT_MANIFEST") or project / "target" / "manifest.json")
    profiles = Path(at_parse("DBT_PROFILES") or project / "profiles.yml")
    group = DbtTaskGroup(
        group_id="dbt",
        project_config=ProjectConfig(
            dbt_project_path=project, manifest_path=manifest, install_dbt_deps=False
        ),
        profile_config=ProfileConfig(
            profile_name="fungible", target_name="ledger", profiles_yml_filepath=profiles
        ),
        execution_config=ExecutionConfig(
            invocation_mode=InvocationMode.SUBPROCESS, dbt_executable_path=at_parse("DBT")
        ),
        # A test of a relation needs both of its ends built.
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST, should_detach_multiple_parents_tests=True
        ),
    )
    group >> EmptyOperator(task_id="built", outlets=[WAREHOUSE])


with DAG(
    "fungible_warehouse",
    description="dbt models and their tests",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("20 * * * *", timezone="UTC"), assets=IMPORTED
    ),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(hours=2)},
    tags=TAGS,
    doc_md=DOC,
) as dag:
    if at_parse("WAREHOUSE") == "cosmos":
        cosmos_group()
    else:
        FungibleOperator(task_id="build", arguments=("warehouse", "build"), outlets=[WAREHOUSE])
