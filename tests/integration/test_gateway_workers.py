"""Several gateway processes behind one port: one ready line, a dead one comes back."""

import asyncio
import re
from pathlib import Path

import aiohttp
import psutil

from fungible.config import BackendSettings, Config, GatewaySettings, RouteSettings
from support.control_setup import write_config
from support.processes import Server, ask, processes_of
from support.rows import rows
from support.servers import free_port

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def workers_of(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


async def test_workers_share_the_port_and_a_dead_one_comes_back(tmp_path: Path) -> None:
    config = Config(
        home=str(tmp_path),
        gateway=GatewaySettings(port=0, workers=2, metrics_port=(metrics := free_port())),
        backend={"a": BackendSettings(kind="null")},
        route={"m": RouteSettings(reference="a")},
    )
    path = write_config(config)
    server = Server("gateway", "serve", "--config", str(path))
    await asyncio.to_thread(server.start)

    async def answered(count: int) -> None:
        for _ in range(count):  # a connection each, so both workers get some
            chat = (server.url, "POST", "/v1/chat/completions", BODY)
            assert (await asyncio.to_thread(ask, *chat))[0] == 200

    async def counted(port: int) -> int:
        """Requests of all workers, once those that do not answer for themselves wrote theirs."""
        url = f"http://127.0.0.1:{port}/metrics"
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while True:
                async with session.get(url) as response:
                    text = await response.text()
                found = re.findall(r'fungible_requests_total{worker="(.*?)".*} (\d+)', text)
                if (total := sum(int(count) for _, count in found)) >= 40:
                    assert {worker for worker, _ in found} == {"gateway-0", "gateway-1"}
                    return total
                await asyncio.sleep(0.05)

    try:
        await answered(40)
        assert await counted(metrics) == 40
        spool = config.spool_path()
        assert {folder.name for folder in spool.iterdir()} == {"gateway-0", "gateway-1"}
        before = {process.pid for process in workers_of(server)}
        assert len(before) == 2
        victim = workers_of(server)[0]
        victim.kill()
        async with asyncio.timeout(30):
            while len({p.pid for p in workers_of(server)} - before) == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await answered(10)
    finally:
        assert await asyncio.to_thread(server.stop) == 0
    assert processes_of(path) == []
    found = rows(config.spool_path())
    assert len(found) == 50
    assert len({row.request_id for row in found}) == 50
