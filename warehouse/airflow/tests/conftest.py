"""A throwaway Airflow and a running `fungible control`, each in an environment of its own."""

import os
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DAGS = HERE.parent / "dags"

# Airflow reads its settings when it is first imported.
_airflow_home = tempfile.TemporaryDirectory(prefix="fungible-airflow-")
os.environ.update(
    AIRFLOW_HOME=_airflow_home.name,
    AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_airflow_home.name}/airflow.db",
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=f"{_airflow_home.name}/logs",
    AIRFLOW__API__HOST="127.0.0.1",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
    AIRFLOW__COSMOS__ENABLE_TELEMETRY="False",
    AIRFLOW__COSMOS__CACHE_DIR=f"{_airflow_home.name}/cosmos",
)
KEPT = ("FUNGIBLE_BIN", "FUNGIBLE_DBT")
for name in [name for name in os.environ if name.startswith("FUNGIBLE_") and name not in KEPT]:
    del os.environ[name]

pytest_plugins = ["product", "runs"]
