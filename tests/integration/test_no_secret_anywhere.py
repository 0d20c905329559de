"""No secret is in anything that the processes write or say: canary values, looked for everywhere.

A gateway, control and an engine run with marked secrets, go through success and every kind of
failure, and are killed. Then every byte is searched: answers, output, spool, ledger, run files.
"""

import asyncio
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.engine_process import start, stop
from support.processes import FUNGIBLE, SUPERVISED, ask
from support.tiny_model import build_tiny_artifact
from support.upstream import Script, Upstream

CLIENT, UPSTREAM, WRONG = "fk-Canary/Client-8812", "sk-Canary/Upstream-4471", "fk-Canary-Wrong-9023"
ESCAPED = UPSTREAM.replace("/", "\\/")
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A local engine and its address."""
    home = tmp_path / "engine"
    build_tiny_artifact(home / "artifacts", variants=["f32"])
    process, url = start(home)
    yield process, url
    if process.poll() is None:
        stop(process)


class Process:
    """A server whose stdout and stderr are kept, whole."""

    def __init__(self, *arguments: str) -> None:
        # asyncio's debug mode is the most talkative that a user can make it.
        env = os.environ | {"UPSTREAM_KEY": UPSTREAM, "PYTHONASYNCIODEBUG": "1"}
        self.process = subprocess.Popen(
            [*SUPERVISED, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert self.said, self.process.communicate(timeout=30)
        self.url = json.loads(self.said)["url"]

    def end(self, *, kill: bool = False) -> bytes:
        """End it; everything that it wrote."""
        (self.process.kill if kill else self.process.terminate)()
        out, err = self.process.communicate(timeout=60)
        return self.said + out + err


def write_config(home: Path, upstream_url: str, engine_url: str) -> Path:
    path = home / "fungible.toml"
    path.write_text(f"""
        home = "{home}/home"
        [control]
        port = 0
        [backend.a]
        url = "{upstream_url}"
        api_key_env = "UPSTREAM_KEY"
        [backend.tiny]
        url = "{engine_url}/v1"
        api_key_env = "UPSTREAM_KEY"
        [route.m]
        reference = "a"
        retries = 0
        [route.tiny]
        reference = "tiny"
        retries = 0
        [key.team]
        hash = "{hashlib.sha256(CLIENT.encode()).hexdigest()}"
        customer = "acme"
        limits = {{ requests_per_minute = 1000 }}
    """)
    return path


def quoting() -> list[Script]:
    """An upstream that gives our key away, in every place where it can say something."""
    body = json.dumps({"error": {"message": f"key {UPSTREAM} is wrong"}})
    refusals = [
        Script(status=status, error_body=said.encode())
        for status in (400, 401, 403, 404, 429, 500, 503)
        for said in (body, body.replace(UPSTREAM, ESCAPED), f"no JSON: {UPSTREAM}")
    ]
    whole = {"id": "c1", "error": {"message": f"no: {UPSTREAM}"}}
    return [
        *refusals,
        Script(status=302, headers={"Location": f"http://x/?key={UPSTREAM}"}, error_body=b""),
        Script(headers={"x-request-key": UPSTREAM}),
        Script(content_type=f"text/{UPSTREAM}"),
        Script(headers={f"bad {UPSTREAM}": "x"}),
        Script(body=json.dumps(whole).encode()),
        Script(body=json.dumps(whole).replace(UPSTREAM, ESCAPED).encode()),
        Script(body=f"no JSON: {UPSTREAM}".encode()),
        Script(body=json.dumps({"choices": UPSTREAM, "usage": UPSTREAM}).encode()),
        Script(words=(" ", UPSTREAM, " is your key")),
    ]


class Chatty(Upstream):
    """Breaks off with our key in the last event."""

    def failure(self, script: Script) -> bytes:
        del script
        return b'data: {"error": {"message": "%s", "code": 500}}\n\n' % ESCAPED.encode()

    def malformed(self) -> bytes:
        return b'data: {not json "%s"\n\n' % UPSTREAM.encode()


async def say(url: str, body: bytes, headers: dict[str, str], path: str = "") -> tuple[int, bytes]:
    """Status, and every byte of one answer, however it ended."""
    said = b""
    async with aiohttp.ClientSession() as session:
        target = f"{url}{path or '/v1/chat/completions'}"
        async with session.post(target, data=body, headers=headers) as answer:
            said += str(answer.raw_headers).encode()
            try:
                async for piece in answer.content.iter_any():
                    said += piece
            except aiohttp.ClientError:
                said += b"(cut)"
            return answer.status, said


def request(model: str = "m", *, stream: bool = False, **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": HI, "stream": stream, **more}).encode()


async def drive(url: str, upstream: Upstream) -> tuple[set[int], bytes]:
    """Everything that can go well or wrong: the statuses, and all that was answered."""
    bearer = {"Authorization": f"Bearer {CLIENT}"}
    answers = [
        await say(url, request(model, stream=stream, max_tokens=4), bearer)
        for model in ("m", "tiny")
        for stream in (False, True)
    ]
    assert [status for status, _ in answers] == [200] * 4
    for script in quoting():
        for stream in (False, True):
            upstream.next = [script]
            answers.append(await say(url, request(stream=stream), bearer))
    for breaks in ("cut_after", "error_after", "malformed_after", "reset_after"):
        upstream.next = [Script(**{breaks: 1})]
        answers.append(await say(url, request(stream=True), bearer))
        upstream.next = [Script(**{breaks: 0})]
        answers.append(await say(url, request(stream=True), bearer))
    for body in (b"{", b"[]", b"\xff", request("ghost"), request(n="x"), request(messages=CLIENT)):
        answers.append(await say(url, body, bearer))
    refused = [
        {"Authorization": f"Bearer {WRONG}"},
        {"Authorization": WRONG},
        {"Authorization": f"Basic {WRONG}"},
        {"x-api-key": WRONG},
        {"Authorization": f"Bearer {CLIENT}", "x-api-key": WRONG},
        {"Authorization": f"Bearer {CLIENT}\xe9"},
        {},
    ]
    for headers in refused:
        answers.append(await say(url, request(), headers))
        assert answers[-1][0] == 401
    answers.append(await say(url, request(), bearer, f"/v1/nothing?api_key={CLIENT}"))
    answers.append(await say(url, request(), {"Authorization": f"Bearer {WRONG}"}, "/v1/messages"))
    answers.append(await say(url, request(), {"x-api-key": CLIENT}))
    return {status for status, _ in answers}, b"".join(said for _, said in answers)


async def talk_to_control(url: str, token: str) -> bytes:
    """Right and wrong questions; the ledger's rows, as text."""
    said: list[Any] = []

    def put(path: str, body: object, token: str = token) -> int:
        status, answer = ask(url, "POST", path, body, token=token)
        said.append(answer)
        return status

    def questions() -> None:
        assert put("/api/sql", {"query": "SELECT 1"}, WRONG) == 401
        assert put("/api/sql", {"query": "SELEC 1"}) == 400
        assert put("/api/routes/activate", b"{") == 400
        assert put("/api/migrations", {"model": "ghost", "candidate": "a"}) == 404
        for path in ("/health", "/api/live", "/api/routes", "/api/routes/history"):
            said.append(ask(url, "GET", path, token=token)[1])

    await asyncio.to_thread(questions)
    async with asyncio.timeout(60):
        count = "SELECT count() FROM attempt_events"
        while await asyncio.to_thread(put, "/api/sql", {"query": count}):
            if said[-1]["rows"][0][0] >= 40:
                break
            await asyncio.sleep(0.3)
    assert (
        await asyncio.to_thread(put, "/api/sql", {"query": "SELECT * FROM attempt_events"}) == 200
    )
    return json.dumps(said, ensure_ascii=False).encode()


def written(*homes: Path) -> dict[str, bytes]:
    """Every file below, but the one that holds the token and is this user's only."""
    return {
        str(path): path.read_bytes()
        for home in homes
        for path in home.rglob("*")
        if path.is_file() and path.name != "control.token"
    }


async def test_no_secret_is_written_or_said(
    tmp_path: Path, engine: tuple[subprocess.Popen[str], str]
) -> None:
    async with Chatty() as upstream:
        path = str(write_config(tmp_path, upstream.url, engine[1]))
        control = await asyncio.to_thread(Process, "control", "serve", "--config", path)
        gateway = await asyncio.to_thread(
            Process, "gateway", "serve", "--config", path, "--port", "0"
        )
        where = tmp_path / "home" / "run" / "control.token"
        token = where.read_text()
        assert stat.S_IMODE(where.stat().st_mode) == 0o600
        found: dict[str, bytes] = {}
        try:
            statuses, found["answers"] = await drive(gateway.url, upstream)
            found["control answers"] = await talk_to_control(control.url, token)
        finally:
            found["gateway"] = await asyncio.to_thread(gateway.end, kill=True)
            found["control"] = await asyncio.to_thread(control.end, kill=True)
            found["engine"] = (await asyncio.to_thread(stop, engine[0])).encode()
        assert upstream.requests[0].headers["authorization"] == f"Bearer {UPSTREAM}"
    assert {200, 400, 401, 404, 429, 502} <= statuses
    assert b"is wrong" in found["answers"]
    found |= written(tmp_path / "home", tmp_path / "engine")
    assert any("/spool/" in name for name in found)
    assert any("/ledger/" in name for name in found)
    hidden = {"client": CLIENT, "upstream": UPSTREAM, "escaped": ESCAPED, "wrong": WRONG,
              "token": token}  # fmt: skip
    leaks = [(name, at) for name, value in hidden.items() for at, data in found.items()
             if value.lower().encode() in data.lower()]  # fmt: skip
    assert leaks == []


def test_a_key_written_into_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:9/v1", "http://127.0.0.1:9")
    path.write_text(path.read_text().replace('api_key_env = "UPSTREAM_KEY"', 'api_key = "sk-x"'))
    done = subprocess.run(
        [*FUNGIBLE, "gateway", "serve", "--config", str(path), "--port", "0"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"sk-x" not in done.stdout + done.stderr
