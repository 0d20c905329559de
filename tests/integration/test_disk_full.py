"""A disk that is really full under a gateway: what clients are told, what the ledger has."""

import asyncio
import contextlib
import json
import resource
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fungible.config import BackendSettings, Config, GatewaySettings, LedgerSettings, RouteSettings
from fungible.contract.sse import DONE
from fungible.ledger.room import held_bytes
from fungible.ledger.ship import QUARANTINE, ship
from fungible.ledger.store import EVERYTHING, open_store
from support.control_setup import write_config
from support.processes import Server

CLIENTS = 8
TURNS = [{"role": "user", "content": "hi"}]
CHAT = {"model": "m", "messages": TURNS}
STREAMS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": {"model": "m", "max_tokens": 100, "messages": TURNS},
    "/v1/responses": {"model": "m", "input": "hi"},
}
ENDS = (DONE, b"message_stop", b"response.completed")


class Clients:
    """Ask one gateway and remember what it said.

    Attributes:
        durable: Request ids of whole answers whose row is said to be on disk.
        lost: Those of answers whose row is said to be lost.
        refused: How many requests got a 507.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session
        self.durable: list[str] = []
        self.lost: list[str] = []
        self.refused = 0

    async def ask(self) -> int:
        """One request; its status."""
        async with self.session.post(f"{self.url}/v1/chat/completions", json=CHAT) as response:
            body = await response.json()
            if response.status == 200:
                assert body["choices"]
                ids = {"durable": self.durable, "lost": self.lost}
                state = response.headers["x-fungible-ledger"]
                ids[state].append(response.headers["x-fungible-request-id"])
            else:
                assert_refused(response.status, body)
                self.refused += 1
            return response.status

    async def ask_until_refused(self) -> None:
        while await self.ask() == 200:
            pass

    async def health(self) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/health") as response:
            body: dict[str, Any] = await response.json()
            assert response.status == (503 if body["rows"] == "refused" else 200)
            assert (body["status"] == "ok") == (body["rows"] == "written")
            return body

    async def until_rows_are(self, state: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while (health := await self.health())["rows"] != state:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return health


def assert_refused(status: int, body: dict[str, Any]) -> None:
    """A clear error, which says nothing about this machine."""
    assert status == 507, body
    assert body["error"]["code"] == "disk_full"
    assert "hint:" in body["error"]["message"]
    assert "spool" not in body["error"]["message"]


@contextlib.asynccontextmanager
async def serving(home: Path, **ledger: Any) -> AsyncIterator[tuple[Server, Clients]]:
    config = Config(
        home=str(home),
        gateway=GatewaySettings(port=0),
        ledger=LedgerSettings(**ledger),
        backend={
            "a": BackendSettings(kind="null", options={"tokens": 3}),
            "b": BackendSettings(kind="null", options={"itl_ms": 20, "tokens": 40}),
        },
        route={"m": RouteSettings(reference="a"), "slow": RouteSettings(reference="b")},
    )
    server = Server("gateway", "serve", "--config", str(write_config(config)))
    await asyncio.to_thread(server.start)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            yield server, Clients(server.url, session)
        assert await asyncio.to_thread(server.stop) == 0
    finally:
        server.kill()


def shipped(home: Path) -> list[str]:
    """Request ids of the ledger's rows, the spool shipped; nothing was damaged."""
    store = open_store(f"chdb://{(home / 'ledger').absolute()}")
    try:
        store.migrate()
        while ship(home / "spool", store):
            pass
        found = store.query("SELECT request_id FROM attempt_events", max_rows=EVERYTHING)
    finally:
        store.close()
    assert held_bytes(home / "spool") == 0
    assert not (home / "spool" / QUARANTINE).exists()
    return [str(row[0]) for row in found.rows]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A home whose spool is a file system of half a mebibyte."""
    spool = tmp_path / "spool"
    spool.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(spool)]
    try:
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command for a small disk")
    if done.returncode:
        pytest.skip(f"a small disk may not be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(spool)], check=True)


def set_disk(server: Server, *, full: bool) -> None:
    """Let the kernel refuse (EFBIG) or allow every write of the gateway to a file."""
    limit = 1 if full else resource.RLIM_INFINITY
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


async def test_a_disk_that_fills_up_refuses_and_loses_nothing_acknowledged(
    small_disk: Path,
) -> None:
    async with serving(small_disk) as (_, clients):
        for round_no in (1, 2):
            before = len(clients.durable)
            await asyncio.gather(*(clients.ask_until_refused() for _ in range(CLIENTS)))
            assert len(clients.durable) > before
            assert clients.refused == round_no * CLIENTS
            assert (await clients.health())["rows"] == "refused"
            recorded = await asyncio.to_thread(shipped, small_disk)  # which makes room
            assert sorted(recorded) == sorted(clients.durable)
            await clients.until_rows_are("written")
        assert await clients.ask() == 200
    assert sorted(shipped(small_disk)) == sorted(clients.durable)
    assert clients.lost == []


async def test_serving_on_a_full_disk_counts_every_row_that_is_lost(small_disk: Path) -> None:
    async with serving(small_disk, on_disk_full="serve") as (_, clients):
        while len(clients.lost) < 100:
            assert await clients.ask() == 200
        health = await clients.health()
        assert (health["rows"], health["rows_lost"]) == ("lost", len(clients.lost))
        assert len(list((small_disk / "spool" / "gateway").iterdir())) < 50, "no litter"
        await asyncio.to_thread(shipped, small_disk)
        await clients.until_rows_are("written")
        lost = len(clients.lost)
        assert await clients.ask() == 200
        assert len(clients.lost) == lost == (await clients.health())["rows_lost"]
    assert sorted(shipped(small_disk)) == sorted(clients.durable)
    assert clients.refused == 0


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_whose_row_cannot_be_written_ends_in_an_error_event(
    tmp_path: Path, path: str
) -> None:
    async with serving(tmp_path) as (server, clients):
        body = {**STREAMS[path], "model": "slow", "stream": True}
        async with clients.session.post(f"{server.url}{path}", json=body) as response:
            assert response.status == 200
            assert response.headers["x-fungible-ledger"] == "pending"
            begin = await response.content.readany()
            set_disk(server, full=True)
            data = begin + await response.content.read()
        assert b"null" in begin, "words came first"
        assert not any(end in data for end in ENDS)
        last = data.strip().split(b"\n\n")[-1]
        said = json.loads(last[last.index(b"{") :])
        assert "cannot be recorded" in json.dumps(said)
        assert (await clients.health())["rows_lost"] == 1
        async with clients.session.post(f"{server.url}{path}", json=body) as response:
            assert response.status == 507, "now it is known before anything is sent"
            assert "cannot be recorded" in json.dumps(await response.json())
        assert (await clients.health())["rows_lost"] == 1
        set_disk(server, full=False)
        await clients.until_rows_are("written")
        assert await clients.ask() == 200
    assert shipped(tmp_path) == clients.durable


async def test_a_stream_is_served_to_its_end_where_the_policy_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, on_disk_full="serve") as (server, clients):
        body = {**CHAT, "model": "slow", "stream": True}
        async with clients.session.post(f"{server.url}/v1/chat/completions", json=body) as response:
            await response.content.readany()
            set_disk(server, full=True)
            assert (await response.content.read()).endswith(DONE)
        health = await clients.health()
        assert (health["rows"], health["rows_lost"]) == ("lost", 1)
        set_disk(server, full=False)
        await clients.until_rows_are("written")
        assert await clients.ask() == 200
    assert shipped(tmp_path) == clients.durable


async def test_a_ledger_that_is_down_fills_the_spool_to_its_bound_and_catches_up_once(
    tmp_path: Path,
) -> None:
    bound = 1 << 20
    async with serving(tmp_path, max_spool_bytes=bound) as (_, clients):
        await asyncio.gather(*(clients.ask_until_refused() for _ in range(CLIENTS)))
        assert bound - 65_536 < held_bytes(tmp_path / "spool") <= bound
        assert (await clients.health())["rows"] == "refused"
        control = Server(
            "control", "serve", "--config", str(tmp_path / "config.json"), "--port", "0"
        )
        await asyncio.to_thread(control.start)
        await asyncio.to_thread(control.kill)  # somewhere in the middle of it
        await asyncio.to_thread(control.start)
        try:
            await clients.until_rows_are("written")
            for _ in range(20):
                assert await clients.ask() == 200
        finally:
            assert await asyncio.to_thread(control.stop) == 0
    recorded = Counter(shipped(tmp_path))
    assert set(recorded) == set(clients.durable)
    assert set(recorded.values()) == {1}
