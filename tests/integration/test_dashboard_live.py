"""The page's numbers over a real ledger, against the records that went in."""

import contextlib
import re
import time
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fungible.contract.events import AttemptEvent
from support.dashboard_events import CANDIDATE, EDGES, REFERENCE, REFUSED, loop
from support.dashboard_server import running

pytest.importorskip("chdb", reason="needs the ledger extra: pip install 'fungible[ledger]'")


class Reading(msgspec.Struct, kw_only=True):
    """What one server said, and what went into its ledger."""

    url: str
    live: dict[str, Any]
    attempts: list[AttemptEvent]


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    now = time.time_ns()
    with running(tmp_path_factory.mktemp("dashboard"), now) as (url, _):
        live = msgspec.json.decode(get(url + "/api/live"))
        attempts = [record for record in loop(now) if isinstance(record, AttemptEvent)]
        yield Reading(url=url, live=live, attempts=attempts)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def tokens(event: AttemptEvent) -> int:
    sent = (event.in_uncached or 0) + (event.in_cache_read or 0) + (event.in_cache_write or 0)
    if event.out_visible is None or event.out_reasoning is None:
        return sent
    return sent + event.out_visible + event.out_reasoning


def test_counts_are_those_of_the_records(reading: Reading) -> None:
    serve = [event for event in reading.attempts if event.kind == "serve"]
    totals = reading.live["totals"]
    assert totals["requests"] == len({event.request_id for event in serve})
    assert totals["attempts"] == len(reading.attempts)
    assert totals["errors"] == sum(event.status == "error" for event in serve) > 0
    assert totals["tokens"] == sum(map(tokens, reading.attempts))
    for row in reading.live["backends"]:
        own = [event for event in reading.attempts if event.backend == row["name"]]
        assert (row["attempts"], row["tokens"]) == (len(own), sum(map(tokens, own)))


def test_every_amount_adds_up_to_the_last_digit(reading: Reading) -> None:
    live, totals = reading.live, reading.live["totals"]
    cost, idle = Decimal(totals["cost"]), Decimal(totals["idle_cost"])
    assert sum(Decimal(row["cost"]) for row in live["backends"]) == cost
    assert sum(Decimal(row["cost"]) for row in live["spend"]) == cost
    assert sum(Decimal(row["idle_cost"]) for row in live["backends"]) == idle
    by_name = {row["name"]: row for row in live["backends"]}
    # Ten minutes at 0.09 an hour, used or not; the third backend is paid by the token.
    for name in (REFERENCE, CANDIDATE):
        parts = Decimal(by_name[name]["cost"]) + Decimal(by_name[name]["idle_cost"])
        assert parts == Decimal("0.015")
    sent = [event for event in reading.attempts if event.backend == REFUSED]
    paid = sum(
        Decimal(event.in_uncached or 0) * Decimal("0.10")
        + Decimal(event.out_visible or 0) * Decimal("0.40")
        for event in sent
    )
    assert Decimal(by_name[REFUSED]["cost"]) == paid / 1_000_000


def test_nothing_unattributed_is_hidden(reading: Reading) -> None:
    rows = {(row["feature"], row["customer"], row["purpose"]): row for row in reading.live["spend"]}
    assert ("", "", "serve") in rows
    assert ("drafts", "", "serve") in rows
    lost = sum(
        Decimal(row["cost"])
        for (feature, customer, purpose), row in rows.items()
        if purpose == "serve" and not (feature and customer)
    )
    assert Decimal(reading.live["totals"]["unattributed_cost"]) == lost > 0


def test_series_hold_the_traffic_of_whole_buckets(reading: Reading) -> None:
    series = reading.live["series"]
    assert len(series["at_ms"]) == 120
    start_ns = (series["at_ms"][0] - series["bucket_s"] * 1000) * 1_000_000
    end_ns = series["at_ms"][-1] * 1_000_000
    for name, points in series["backends"].items():
        own = [
            event
            for event in reading.attempts
            if event.backend == name and start_ns < event.ended_ns <= end_ns
        ]
        first = sum(event.kind == "serve" and event.attempt_no == 0 for event in own)
        assert sum(points["requests_per_s"]) * series["bucket_s"] == pytest.approx(first)
    assert any(series["backends"][CANDIDATE]["cost_per_mtok"])


def test_evidence_is_complete(reading: Reading) -> None:
    live = reading.live
    assert [card["outcome"] for card in live["verdicts"]] == ["pass", "fail"]
    assert live["verdicts"][1]["reasons"]
    assert live["verdicts"][0]["metrics"]["flips"] == 0.0313
    [migration] = live["migrations"]
    steps = [edge["to_state"] for edge in migration["edges"]]
    assert steps == [edge[1] for edge in EDGES]
    assert migration["edges"][-1]["evidence"]["e_hold"] == 23.9
    assert {row["backend"] for row in live["replays"]} == {REFERENCE, CANDIDATE}
    verdicts = {row["name"]: row["verdict"] for row in live["backends"]}
    assert verdicts == {REFERENCE: None, CANDIDATE: "pass", REFUSED: "fail"}
    assert live["routes"]["version"] == 4
    assert live["routes"]["models"][0]["shares"] == {CANDIDATE: 1.0}
    assert live["simulated_prices"] == ["cpu-2-cores", "int4"]


def test_the_stream_repeats_and_ends_with_the_server(tmp_path: Path) -> None:
    with running(tmp_path) as (url, process):
        with urllib.request.urlopen(url + "/api/live/stream", timeout=60) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            text = b""
            while text.count(b"event: snapshot\n") < 3:
                text += stream.readline()
            process.terminate()
            with contextlib.suppress(ConnectionResetError):
                rest = stream.read()
        assert len(re.findall(rb"event: snapshot\ndata: \{.*\}\n\n", text + rest)) >= 3
        _, errors = process.communicate(timeout=30)
    # Code 0: the server came back to its caller, who closed the ledger. A stream that had to
    # be cancelled would be logged.
    assert (process.returncode, errors) == (0, "")
