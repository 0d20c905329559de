"""Price sheets and rates: what changed is imported once, what is wrong is refused, buckets work."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from product import Product
from runs import Run

HEAD = "key,unit,leaf,price,currency,valid_from,valid_to,source,note\n"
RATES = "day,base,quote,rate\n2026-11-02,EUR,USD,1.1000\n"


def hour(number: int) -> datetime:
    return datetime(2026, 11, 2, number, tzinfo=UTC)


def put(folder: Path, name: str, key: str, price: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    row = f"{key},1M_tokens,input,{price},USD,2026-01-01,,contract-17,\n"
    (folder / name).write_text(HEAD + row)


@pytest.fixture
def inbox(tmp_path: Path, fungible: Product, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUNGIBLE_INBOX", str(tmp_path))
    return tmp_path


def test_only_what_changed_is_imported(
    inbox: Path, fungible: Product, run_dag: Callable[..., Run]
) -> None:
    put(inbox / "prices", "contract.csv", "small", "0.15")
    (inbox / "prices" / "_draft.csv").write_text("not a sheet")
    (inbox / "rates").mkdir()
    (inbox / "rates" / "ecb.csv").write_text(RATES)

    first = run_dag("fungible_prices", logical_date=hour(1))

    assert first.state == "success"
    assert first.xcom("ingest_prices")["rows"] == 1
    assert first.xcom("ingest_rates")["rows"] == 1
    query = "SELECT key, toString(price) FROM price_rows WHERE key = 'small' ORDER BY known_ns"
    fungible.wait_for(query, [["small", "0.15"]])

    second = run_dag("fungible_prices", logical_date=hour(2))

    assert second.states["watch_prices"] == "skipped"
    assert second.states["ingest_prices"] == "skipped"

    put(inbox / "prices", "contract.csv", "small", "0.10")
    third = run_dag("fungible_prices", logical_date=hour(3))

    assert third.states["ingest_prices"] == "success"
    assert third.states["ingest_rates"] == "skipped"
    fungible.wait_for(query, [["small", "0.15"], ["small", "0.1"]])


def test_a_refused_sheet_fails_at_once_and_holds_up_no_other(
    inbox: Path, fungible: Product, run_dag: Callable[..., Run]
) -> None:
    put(inbox / "prices", "a-wrong.csv", "wrong", "cheap")
    put(inbox / "prices", "b-right.csv", "right", "0.2")

    done = run_dag("fungible_prices", logical_date=hour(5), retry=2)

    assert done.states["ingest_prices"] == "failed"
    assert done.tries["ingest_prices"] == 1
    assert done.state == "failed"
    keys = "SELECT DISTINCT key FROM price_rows WHERE key IN ('right', 'wrong')"
    fungible.wait_for(keys, [["right"]])

    put(inbox / "prices", "a-wrong.csv", "wrong", "0.3")
    mended = run_dag("fungible_prices", logical_date=hour(6))

    assert mended.states["ingest_prices"] == "success"
    fungible.wait_for(f"{keys} ORDER BY key", [["right"], ["wrong"]])


def test_a_bucket_is_read_like_a_folder(
    fungible: Product,
    run_dag: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from airflow.sdk import ObjectStoragePath
    from airflow.sdk.io import attach
    from fsspec.implementations.memory import MemoryFileSystem

    attach("memory", fs=MemoryFileSystem())
    put(tmp_path, "bucket.csv", "bucket", "0.4")
    sheet = ObjectStoragePath("memory://shelf/prices/bucket.csv")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.write_bytes((tmp_path / "bucket.csv").read_bytes())
    monkeypatch.setenv("FUNGIBLE_INBOX", "memory://shelf/")

    done = run_dag("fungible_prices", logical_date=hour(8))

    assert done.states["ingest_prices"] == "success"
    assert done.xcom("ingest_prices")["receipts"][0]["source"] == "bucket.csv"


def test_without_an_inbox_the_task_says_what_to_set(
    fungible: Product, run_dag: Callable[..., Run]
) -> None:
    done = run_dag("fungible_prices", logical_date=hour(9))
    assert done.states["watch_prices"] == "failed"
