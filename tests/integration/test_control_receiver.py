"""Traces sent to a running control process, as a collector sends them."""

import fcntl
import gzip
import hashlib
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
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from fungible.config import IngestSettings, LedgerSettings
from fungible.config.check import LEAST_SPOOL_BYTES
from fungible.ledger.room import held_bytes
from support.control_setup import config_in, write_config
from support.otlp import binary, request, span
from support.processes import FUNGIBLE, Server, ask

LASTING = "a-token-that-stays"
CALL: dict[str, object] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.response.id": "chatcmpl-live",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 5,
    "tenant": "acorn",
}


class Receiver:
    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url
        self.token = (home / "run" / "control.token").read_text()

    def send(self, data: bytes, kind: str, token: str = "", **headers: str) -> tuple[int, bytes]:
        status, body, _ = self.exchange(data, kind, token, **headers)
        return status, body

    def exchange(
        self, data: bytes, kind: str, token: str = "", **headers: str
    ) -> tuple[int, bytes, str]:
        """Status, body and `retry-after` of one request."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
        given = {"content-type": kind, "authorization": f"Bearer {token or self.token}"} | headers
        try:
            connection.request("POST", "/v1/traces", data, given)
            answer = connection.getresponse()
            assert answer.getheader("content-type") == kind or answer.status == 415
            return answer.status, answer.read(), answer.getheader("retry-after", "")
        finally:
            connection.close()

    def ask(self, sql: str) -> list[list[Any]]:
        status, body = ask(self.url, "POST", "/api/sql", {"query": sql}, token=self.token)
        assert status == 200, body
        rows: list[list[Any]] = body["rows"]
        return rows

    def await_rows(self, sql: str, wanted: list[list[Any]]) -> None:
        until = time.monotonic() + 30
        while (rows := self.ask(sql)) != wanted:
            assert time.monotonic() < until, rows
            time.sleep(0.1)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    home = tmp_path_factory.mktemp("receiver")
    ingest = IngestSettings(
        attributes={"customer": ["tenant"]}, token_hash=hashlib.sha256(LASTING.encode()).hexdigest()
    )
    config = msgspec.structs.replace(config_in(home), ingest=ingest)
    with Server("control", "serve", "--config", str(write_config(config))) as server:
        yield Receiver(home, server.url)


def test_spans_become_attempts_whichever_way_they_are_packed(receiver: Receiver) -> None:
    body = request(span(CALL), span({"http.route": "/"}))
    plain = json.dumps(body).encode()
    assert receiver.send(plain, "application/json") == (200, b"{}")
    packed = gzip.compress(binary(body))
    sent = receiver.send(packed, "application/x-protobuf", LASTING, **{"content-encoding": "gzip"})
    assert sent == (200, b"")
    receiver.await_rows(
        "SELECT response_id, customer, backend, in_uncached FROM attempts",
        [["chatcmpl-live", "acorn", "openai", 10]],
    )


def test_what_is_refused_is_said_and_kept(receiver: Receiver) -> None:
    bad = span(CALL | {"gen_ai.usage.input_tokens": -4}, spanId="00000000000000aa")
    status, data = receiver.send(json.dumps(request(bad)).encode(), "application/json")
    said = json.loads(data)["partialSuccess"]
    assert (status, said["rejectedSpans"], "-4" in said["errorMessage"]) == (200, "1", True)
    status, data = receiver.send(binary(request(bad)), "application/x-protobuf")
    answer = ExportTraceServiceResponse.FromString(data)
    assert (status, answer.partial_success.rejected_spans) == (200, 1)
    assert "-4" in answer.partial_success.error_message
    receiver.await_rows(
        "SELECT DISTINCT stream, position(reason, '-4') > 0 FROM rejects", [["traces", 1]]
    )


@pytest.mark.parametrize("kind", ["application/json", "application/x-protobuf"])
def test_bad_requests_are_told_so_in_their_own_form(receiver: Receiver, kind: str) -> None:
    assert receiver.send(b"\xff", kind)[0] == 400
    assert receiver.send(b"{}", kind, "wrong")[0] == 401
    assert receiver.send(b"{}", kind, **{"content-encoding": "br"})[0] == 400
    cut = gzip.compress(b"{}" * 1000)[:-4]
    assert receiver.send(cut, kind, **{"content-encoding": "gzip"})[0] == 400
    bomb = gzip.compress(bytes(80 << 20))
    assert receiver.send(bomb, kind, **{"content-encoding": "gzip"})[0] == 413
    assert receiver.send(b"{}", "text/plain")[0] == 415


def test_files_go_through_a_running_control_and_are_there_on_return(
    receiver: Receiver, tmp_path: Path
) -> None:
    log = tmp_path / "t.jsonl"
    other = span(CALL | {"gen_ai.response.id": "filed"}, spanId="00000000000000bb")
    log.write_text(json.dumps(request(other)), encoding="utf-8")
    path = str(receiver.home / "config.json")
    command = [*FUNGIBLE, "ingest", "traces", str(log), "--config", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert receiver.ask("SELECT count() FROM attempts WHERE response_id = 'filed'") == [[1]]


def test_a_full_spool_refuses_keeps_what_it_took_and_recovers(tmp_path: Path) -> None:
    ledger = LedgerSettings(max_spool_bytes=LEAST_SPOOL_BYTES)
    config = msgspec.structs.replace(config_in(tmp_path), ledger=ledger)

    def batch(number: int) -> bytes:
        attributes = CALL | {"tenant": "x" * 500}
        return binary(
            request(
                *(
                    span(
                        attributes | {"gen_ai.response.id": f"r{number}-{at}"},
                        spanId=f"{number * 1000 + at + 1:016x}",
                    )
                    for at in range(200)
                )
            )
        )

    with Server("control", "serve", "--config", str(write_config(config))) as server:
        receiver = Receiver(tmp_path, server.url)
        taken, refused = 0, 0
        with (config.spool_path() / "ship.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever holds it ships: control can't meanwhile
            while not refused:
                status, body, wait_s = receiver.exchange(batch(taken), "application/x-protobuf")
                if status == 503:
                    refused += 1
                else:
                    assert (status, body) == (200, b"")
                    taken += 1
                assert taken < 100, "the bound is never reached"
            assert taken > 1
            assert int(wait_s) > 0
            assert b"bytes wait to be shipped" in body
            assert receiver.send(batch(taken), "application/x-protobuf")[0] == 503
            assert held_bytes(config.spool_path()) <= LEAST_SPOOL_BYTES
            health = ask(server.url, "GET", "/health", token=receiver.token)
            assert health[0] == 200
        until = time.monotonic() + 30
        while receiver.send(batch(taken), "application/x-protobuf")[0] != 200:
            assert time.monotonic() < until, "there is room again, and nothing is taken"
            time.sleep(0.2)
        number = 200 * (taken + 1)
        receiver.await_rows("SELECT count(), uniq(response_id) FROM attempts", [[number, number]])
        assert receiver.ask("SELECT count() FROM rejects") == [[0]]
