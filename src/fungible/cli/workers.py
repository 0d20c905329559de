"""Several gateway processes behind one port: started together, kept up, ended together."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from fungible.cli.serve import address_of, announce, bind, check_free
from fungible.config import Config
from fungible.control.children import Child
from fungible.errors import FungibleError

START_S = 60.0
STOP_S = 15.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
# A worker that lived this long had recovered: its next failure starts from the first backoff.
SETTLED_S = 30.0

Say = Callable[[str], None]


def serve_workers(config: Config, path: Path, port: int, count: int, *, say: Say) -> None:
    """Serve with `count` processes until SIGINT or SIGTERM; a dead one is started again.

    Prints one ready line when all of them answer. The kernel spreads connections over them
    (`SO_REUSEPORT`). Each worker's messages go to `<home>/logs/gateway-N.log`.

    Raises:
        PortInUseError: Somebody else listens there.
        StartupError: A worker did not come up; the others are stopped again.
    """
    host = config.gateway.host
    check_free(host, port)
    # Bound, never listening: it holds the port while workers come and go.
    with bind(host, port, shared=True, listen=False) as held:
        asyncio.run(_run(config, path, held, count, say))


async def _run(config: Config, path: Path, held: socket.socket, count: int, say: Say) -> None:
    port = held.getsockname()[1]
    logs = config.home_path() / "logs"
    workers = [_worker(path, logs, port, at) for at in range(count)]
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    starting = asyncio.create_task(_start(workers))
    waiting = asyncio.create_task(told.wait())
    keepers: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        await starting
        announce("gateway", address_of(held), os.getpid())
        keepers = [asyncio.create_task(_keep_up(worker, say)) for worker in workers]
        await waiting
    finally:
        for task in (*keepers, starting, waiting):
            task.cancel()
        await asyncio.gather(*keepers, starting, waiting, return_exceptions=True)
        await asyncio.gather(*(worker.stop(STOP_S) for worker in workers))


async def _start(workers: list[Child]) -> None:
    await asyncio.gather(*(worker.start(START_S) for worker in workers))


def _worker(path: Path, logs: Path, port: int, at: int) -> Child:
    arguments = ["gateway", "serve", "--config", str(path), "--port", str(port)]
    return Child(f"gateway-{at}", [*arguments, "--worker", str(at)], logs / f"gateway-{at}.log")


async def _keep_up(worker: Child, say: Say) -> None:
    """Start it again whenever it ends."""
    failures, began = 0, time.monotonic()
    while True:
        code = await worker.wait()
        say(f"{worker.name} ended with exit code {code}; starting again")
        failures = 0 if time.monotonic() - began > SETTLED_S else failures
        began = time.monotonic()
        await worker.stop(0.0)
        await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
        try:
            await worker.start(START_S)
        except (FungibleError, OSError) as error:
            say(str(error))  # it has ended: the next turn tries again, later
        failures += 1
