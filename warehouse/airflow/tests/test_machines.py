"""Snapshots of machines and invoices: files of others, and commands of our own."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import october
from product import Product
from runs import Run

AFTER = datetime(2026, 10, 20, 10, tzinfo=UTC)


def nodes(name: str) -> dict[str, Any]:
    """What `kubectl get nodes -o json` prints about one machine."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "creationTimestamp": "2026-10-01T00:00:00Z",
            "labels": {"node.kubernetes.io/instance-type": "trn2.48xlarge"},
        },
        "spec": {"providerID": f"aws:///us-east-1a/i-{name}"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [node]}


@pytest.fixture
def inbox(tmp_path: Path, fungible: Product, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUNGIBLE_INBOX", str(tmp_path))
    return tmp_path


def test_an_hour_of_the_past_is_imported_from_files_and_asks_no_command(
    inbox: Path, run_dag: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNGIBLE_SNAPSHOTS", json.dumps({"nodes": "no-such-command"}))
    october.put(inbox / "infra" / october.FOLDER / "nodes.json", nodes("past"))

    done = run_dag("fungible_infra", logical_date=AFTER)

    assert done.states["choose"] == "skipped"
    assert done.states["ingest"] == "success"
    assert done.xcom("ingest")["rows"] == 1


def test_a_command_s_list_is_kept_and_imported(
    inbox: Path, fungible: Product, run_dag: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = inbox / "listing.json"
    october.put(listing, nodes("present"))
    program = f"{sys.executable} -c \"print(open('{listing}').read())\""
    monkeypatch.setenv("FUNGIBLE_SNAPSHOTS", json.dumps({"nodes": program}))

    done = run_dag("fungible_infra", logical_date=datetime.now(UTC))

    assert done.states["snapshot"] == ["success"]
    assert done.states["ingest"] == "success"
    kept = Path(done.xcom("snapshot", map_index=0))
    assert kept.is_relative_to(inbox / "infra")
    assert json.loads(kept.read_text()) == nodes("present")
    fungible.wait_for("SELECT count() FROM infra WHERE resource = 'present'", [[1]])


def test_a_command_that_fails_fails_the_run(
    inbox: Path, run_dag: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNGIBLE_SNAPSHOTS", json.dumps({"nodes": f"{sys.executable} -c 1/0"}))
    done = run_dag("fungible_infra", logical_date=datetime.now(UTC) - timedelta(minutes=1))
    assert done.states["snapshot"] == ["failed"]
    assert done.state == "failed"


def test_an_invoice_is_imported_when_it_changed(
    inbox: Path, fungible: Product, run_dag: Callable[..., Run]
) -> None:
    october.put(inbox / "invoices" / "october.csv", october.invoice("0.80"))

    first = run_dag("fungible_invoices", logical_date=AFTER)
    second = run_dag("fungible_invoices", logical_date=AFTER + timedelta(hours=1))

    assert first.xcom("ingest")["rows"] == 2
    assert second.states == {"watch": "skipped", "ingest": "skipped"}
    billed = "SELECT sku, toString(billed) FROM invoice_lines WHERE issuer = 'hosted' ORDER BY sku"
    fungible.wait_for(billed, [["in", "2"], ["out", "0.8"]])
