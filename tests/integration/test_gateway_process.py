"""A gateway process keeps its secrets, ends cleanly, and loses no row that a store should get."""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import pytest

from support.processes import FUNGIBLE, Server, processes_of
from support.rows import rows
from support.upstream import Script, Upstream

CANARY = "sk-canary-0451"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPSTREAM_KEY", CANARY)
    path = tmp_path / "fungible.toml"
    path.write_text(f"""
        home = "home"
        [backend.a]
        url = "{upstream.url}"
        api_key_env = "UPSTREAM_KEY"
        [route.m]
        reference = "a"
        retries = 0
        [key.team]
        hash = "{key_hash("fk-team")}"
        customer = "acme"
    """)
    return path


def key_hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def gateway(config: Path) -> Server:
    return Server("gateway", "serve", "--config", str(config), "--port", "0")


def client(server: Server, key: str = "fk-team") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=30)


async def test_no_secret_leaves_the_process(config: Path, upstream: Upstream) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220  # starting one takes no time
        [*FUNGIBLE, "gateway", "serve", "--config", str(config), "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    url = json.loads(await asyncio.to_thread(process.stdout.readline))["url"]
    quoted = json.dumps({"error": {"message": f"key {CANARY} is wrong"}}).encode()
    said = b""
    scripts = [Script(status=status, error_body=quoted) for status in (400, 401, 429, 500)]
    async with aiohttp.ClientSession() as session:
        for script in [*scripts, Script(cut_after=0), Script()]:
            upstream.default = script
            headers = {"Authorization": "Bearer fk-team"}
            body = {"model": "m", "messages": HI, "stream": True}
            async with session.post(
                f"{url}/v1/chat/completions", json=body, headers=headers
            ) as answer:
                said += str(answer.headers).encode() + await answer.read()
    process.terminate()
    out, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    spool = config.parent / "home" / "spool"
    said += out + err + b"".join(path.read_bytes() for path in spool.glob("*/*"))
    assert b"key [key] is wrong" in said
    assert CANARY.encode() not in said
    assert b"fk-team" not in said


async def burst(server: Server, count: int, kill_after: int) -> list[str]:
    """Request ids that were seen answered to the end, with the server killed in between."""
    whole: list[str] = []
    killed = asyncio.Event()

    async def one(session: aiohttp.ClientSession, at: int) -> None:
        body = {"model": "m", "messages": HI, "stream": at % 2 == 0}
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with session.post(f"{server.url}/v1/chat/completions", json=body) as answer:
                data = await answer.read()
                done = data.endswith(b"[DONE]\n\n") if at % 2 == 0 else b"choices" in data
                if answer.status == 200 and done:
                    whole.append(answer.headers["x-fungible-request-id"])
                    if len(whole) >= kill_after and not killed.is_set():
                        killed.set()
                        server.process.kill()

    connector = aiohttp.TCPConnector(limit=16)
    headers = {"Authorization": "Bearer fk-team"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await asyncio.gather(*(one(session, at) for at in range(count)))
    return whole


async def test_what_a_client_saw_whole_is_in_the_ledger_once(
    config: Path, upstream: Upstream
) -> None:
    upstream.default = Script(word_s=0.002)
    server = gateway(config)
    seen: list[str] = []
    for kill_after in (20, 45):
        server.start()
        seen += await burst(server, 120, kill_after)
        assert server.kill() == -9
    server.start()
    seen += await burst(server, 10, 1000)
    assert server.stop() == 0
    assert len(seen) >= 75
    assert len(seen) < 250, "it was not killed in the middle"
    shipped = await asyncio.to_thread(ship, config)
    assert Counter(shipped) >= Counter(seen)
    assert max(Counter(shipped).values()) == 1
    assert await asyncio.to_thread(ship, config) == shipped


def ship(config: Path) -> list[str]:
    """Ids of requests answered whole, from a store that a process of its own fills."""
    code = (
        "import json, sys; from pathlib import Path; from fungible.ledger.store import open_store; "
        "from fungible.ledger.ship import ship; home = Path(sys.argv[1]); "
        "store = open_store(f'chdb:///{home}/ledger'); store.migrate(); "
        "ship(home / 'spool', store); "
        "rows = store.query(\"SELECT request_id FROM attempt_events WHERE status = 'ok' "
        'ORDER BY request_id").rows; store.close(); print(json.dumps([row[0] for row in rows]))'
    )
    home = config.parent / "home"
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True, check=True
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


async def test_sigterm_leaves_nothing_running(config: Path, upstream: Upstream) -> None:
    upstream.default = Script(words=("x",) * 2000, word_s=0.02)
    server = gateway(config)
    server.start()
    async with client(server) as api:
        stream = await api.chat.completions.create(model="m", messages=HI, stream=True)
        await anext(stream)
        assert await asyncio.to_thread(server.stop) == 0
        await stream.close()
    assert processes_of(config) == []
    spool = config.parent / "home" / "spool"
    assert list(spool.glob("*/*.open")) == []
    assert [row.status for row in rows(spool)] == ["cancelled"]
