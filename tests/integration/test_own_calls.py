"""Spans and bodies of calls through our own gateway, imported beside it: no call counts twice."""

import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from fungible.config import IngestSettings
from support.control_setup import config_in
from support.otlp import request, span
from support.processes import FUNGIBLE, ask
from support.up import Up, up

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HELLO = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Up]:
    ingest = IngestSettings(gateways=["gateway.example:8080"])
    with up(tmp_path, msgspec.structs.replace(config_in(tmp_path), ingest=ingest)) as one:
        yield one


def call(running: Up, path: str, body: dict[str, Any], traceparent: str) -> tuple[str, Any]:
    """One call through the gateway: the request's id and the body of the answer."""
    where = urlsplit(running.ready["gateway"])
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
    headers = {"content-type": "application/json", "traceparent": traceparent}
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return answer.getheader("x-fungible-request-id") or "", json.loads(data)
    finally:
        connection.close()


def rows(running: Up, sql: str) -> list[list[Any]]:
    token = (running.home / "run" / "control.token").read_text()
    status, body = ask(running.ready["control"], "POST", "/api/sql", {"query": sql}, token=token)
    assert status == 200, body
    found: list[list[Any]] = body["rows"]
    return found


def ingest(running: Up, stream: str, path: Path) -> dict[str, Any]:
    config = str(running.home / "config.json")
    done = subprocess.run(
        [*FUNGIBLE, "ingest", stream, str(path), "--json", "--config", config],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_imports_of_our_own_calls_make_no_attempts(running: Up, tmp_path: Path) -> None:
    _, answer = call(running, "/v1/chat/completions", HELLO, "00-not-a-header-00")
    texts = {"model": "assistant", "input": "hello"}
    ours, _ = call(running, "/v1/embeddings", texts, f"00-{TRACE}-{SPAN}-01")
    deadline = time.monotonic() + 30
    while rows(running, "SELECT count() FROM attempts") != [[2]]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    traced = "SELECT request_id, trace_id, span_id FROM attempts WHERE span_id != ''"
    assert rows(running, traced) == [[ours, TRACE, SPAN]]

    usage: dict[str, object] = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}
    chat = usage | {"gen_ai.operation.name": "chat", "gen_ai.response.id": answer["id"]}
    vectors = usage | {"gen_ai.operation.name": "embeddings"}
    failed: dict[str, object] = {
        "gen_ai.operation.name": "chat",
        "server.address": "gateway.example",
        "server.port": 8080,
        "error.type": "timeout",
    }
    spans = tmp_path / "spans.jsonl"
    spans.write_text(
        json.dumps(
            request(
                span(chat, traceId="a" * 32),
                span(vectors, traceId=TRACE, spanId=SPAN),
                span(failed, traceId="b" * 32),
                span(usage | {"gen_ai.operation.name": "chat"}, traceId="c" * 32),
            )
        ),
        encoding="utf-8",
    )
    said = ingest(running, "traces", spans)
    (file,) = said["files"]
    assert (file["receipt"]["rows"], file["to_gateways"], said["own_calls"]) == (3, 1, 2)
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_text(json.dumps(answer), encoding="utf-8")
    assert ingest(running, "responses", bodies)["own_calls"] == 1

    counted = "SELECT count(), countIf(backend_kind = 'imported') FROM attempts"
    assert rows(running, counted) == [[3, 1]]
    linked = rows(
        running,
        "SELECT f.stream, count(), countIf(a.attempt_id != '') FROM own_call_facts AS f FINAL"
        " LEFT JOIN attempts AS a ON a.attempt_id = f.attempt_id GROUP BY f.stream ORDER BY 1",
    )
    assert linked == [["responses", 1, 1], ["traces", 2, 2]]
