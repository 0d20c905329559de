"""Settings of the DAGs: the environment's `FUNGIBLE_X`, else the Airflow variable `fungible_x`.

Airflow parses DAG files again and again; what shapes a DAG is therefore read from the environment
only (`at_parse`), never from Airflow's database.
"""

import os
import shlex
from pathlib import Path

from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowFailException

DEFAULTS = {
    "BIN": "fungible",
    "HOME": "",
    "CONFIG": "",
    "INBOX": "",
    "PATIENCE_MINUTES": "45",
    "SNAPSHOTS": "{}",
    "EVAL_BACKENDS": "",
    "EVAL_SUITE": "everyday",
    "EVAL_MODEL": "",
    "EVAL_RESULTS": "",
    "BENCH_BACKENDS": "",
    "BENCH_TRACE": "everyday",
    "BENCH_MODEL": "",
}
PARSE_DEFAULTS = {
    "WAREHOUSE": "build",
    "DBT_PROJECT": "",
    "DBT": "dbt",
    "DBT_MANIFEST": "",
    "DBT_PROFILES": "",
    "APPROVAL": "",
}


def setting(name: str) -> str:
    """A setting as it is now; for running tasks."""
    value = os.environ.get(f"FUNGIBLE_{name}")
    if value is None:
        value = Variable.get(f"fungible_{name.lower()}", default=DEFAULTS[name])
    return str(value)


def at_parse(name: str) -> str:
    """A setting that shapes a DAG: from the environment only."""
    return os.environ.get(f"FUNGIBLE_{name}", PARSE_DEFAULTS[name])


def names(name: str) -> list[str]:
    """A setting that is a list, separated by commas or blanks."""
    return setting(name).replace(",", " ").split()


def executable() -> list[str]:
    """How `fungible` is started: a program with arguments, such as `uv run fungible`."""
    return shlex.split(setting("BIN"))


def located() -> list[str]:
    """Options that say which home and configuration commands work on.

    Raises:
        AirflowFailException: Neither is set: a worker's own directory says nothing.
    """
    chosen = (("--home", setting("HOME")), ("--config", setting("CONFIG")))
    words = [
        word for option, value in chosen if value for word in (option, str(Path(value).absolute()))
    ]
    if not words:
        raise AirflowFailException("no configuration: set FUNGIBLE_CONFIG or FUNGIBLE_HOME")
    return words
