"""What all DAGs agree on: UTC, retries, and the assets between them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, AssetAny

START = datetime(2026, 1, 1, tzinfo=UTC)
TAGS = ["fungible"]

# Five retries, a minute and then twice as long each time, outlast half an hour of absence.
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "fungible",
    "retries": 5,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=30),
    "execution_timeout": timedelta(hours=1),
}

# What imports leave behind, and what is built from it.
RESPONSES = Asset("fungible://ledger/responses")
TRACES = Asset("fungible://ledger/traces")
PRICES = Asset("fungible://ledger/prices")
INFRA = Asset("fungible://ledger/infra")
INVOICES = Asset("fungible://ledger/invoices")
WAREHOUSE = Asset("fungible://warehouse/marts")
MONTH = Asset("fungible://warehouse/month")
IMPORTED = AssetAny(RESPONSES, TRACES, PRICES, INFRA, INVOICES)
