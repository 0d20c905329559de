"""SIGKILL a serving gateway: what a client saw answered in full is in the spool, once."""

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp

from fungible.config import BackendSettings, Config, GatewaySettings, RouteSettings
from fungible.contract.sse import DONE
from support.control_setup import write_config
from support.processes import Server
from support.rows import rows

ROUNDS, CLIENTS, ANSWERS = 4, 12, 40


def config_in(home: Path) -> Config:
    scripted = {"ttft_ms": 4, "itl_ms": 2, "tokens": 6}
    return Config(
        home=str(home),
        gateway=GatewaySettings(port=0),
        backend={"a": BackendSettings(kind="null", options=scripted)},
        route={"m": RouteSettings(reference="a")},
    )


class Crowd:
    """Clients that keep asking, half of them for streams, until the gateway is gone.

    Attributes:
        answered: Requests whose whole body, or `[DONE]`, arrived.
        cut: Requests that were under way when it went.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answered: list[str] = []
        self.cut = 0

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._client(session, at) for at in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, at: int) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        body["stream"] = at % 2 == 0
        url = f"{self.server.url}/v1/chat/completions"
        while True:
            try:
                async with session.post(url, json=body) as response:
                    data = await response.read()
                    assert response.status == 200, data
            except (aiohttp.ClientError, ConnectionError):
                self.cut += 1
                return
            assert not body["stream"] or data.endswith(DONE)
            self.answered.append(response.headers["x-fungible-request-id"])
            if len(self.answered) == ANSWERS:
                self.server.process.kill()


async def test_an_answer_that_a_client_saw_is_recorded_once(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    path = write_config(config)
    answered: list[str] = []
    for _ in range(ROUNDS):
        server = Server("gateway", "serve", "--config", str(path))
        await asyncio.to_thread(server.start)
        crowd = Crowd(server)
        try:
            async with asyncio.timeout(60):
                await crowd.run()
        finally:
            server.kill()
        # Everyone was cut off: it was killed with all of them under way.
        assert crowd.cut == CLIENTS
        assert len(crowd.answered) >= ANSWERS
        answered += crowd.answered
    assert len(set(answered)) == len(answered) >= ROUNDS * ANSWERS
    recorded = [row for row in rows(config.spool_path()) if row.status == "ok"]
    counts = Counter(row.request_id for row in recorded)
    missing = [one for one in answered if counts[one] != 1]
    assert missing == []
    assert all(row.usage_source == "provider_final" for row in recorded)


async def test_it_stops_in_order_and_serves_again(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    path = write_config(config)
    for count in (1, 2):
        with Server("gateway", "serve", "--config", str(path)) as server:
            async with aiohttp.ClientSession() as session:
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                url = f"{server.url}/v1/chat/completions"
                async with session.post(url, json=body) as response:
                    assert response.status == 200
            assert server.stop() == 0
        assert len(rows(config.spool_path())) == count
        assert not list(config.spool_path().glob("*/*.open")), "its segments are sealed"
