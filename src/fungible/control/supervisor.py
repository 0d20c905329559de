"""Starts engines, control and gateway on this machine, keeps them up, and leaves none behind."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from fungible.config import BackendSettings, Config, EngineSettings
from fungible.control.children import Child, ReadyLine
from fungible.control.engines import (
    ENGINE_START_S,
    ENGINE_STOP_S,
    engine_arguments,
    step_log_path,
)
from fungible.control.files import write_atomic
from fungible.control.leases import Leases
from fungible.control.lock import only_one
from fungible.errors import FungibleError, StartupError
from fungible.ledger.spool import SpoolWriter

# Two at a time: loading a model takes a core and twice its memory.
ENGINES_AT_ONCE = 2
SERVER_START_S = 60.0
GATEWAY_STOP_S = 15.0
CONTROL_STOP_S = 60.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
# A child that lived this long had recovered: its next failure starts from the first backoff.
SETTLED_S = 30.0

Progress = Callable[[str, str], None]


class Supervisor:
    """Everything that `fungible up` runs, as an async context manager.

    Children hold our end of a pipe as their stdin, so they also end when this process is
    killed. They are in sessions of their own: Ctrl-C reaches only the supervisor.

    Args:
        config: As loaded from `config_path`.
        config_path: Relative artifact paths are relative to it.
        progress: Called with a child's name and what it does (`starting`, `ready`, …).
    """

    def __init__(
        self, config: Config, config_path: Path, *, progress: Progress | None = None
    ) -> None:
        self.config = config
        self._base = config_path.parent
        self._progress = progress or (lambda name, what: None)
        self._home = config.home_path().absolute()
        self._children: dict[str, Child] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._held = contextlib.ExitStack()
        self._spool: SpoolWriter | None = None
        self._leases: Leases | None = None

    @property
    def gateway_url(self) -> str:
        """Where the contract is served, without `/v1`."""
        return self._url("gateway")

    @property
    def control_url(self) -> str:
        """Where the page and the control API are."""
        return self._url("control")

    @property
    def clickhouse_url(self) -> str:
        """Where the embedded ledger is a ClickHouse server; empty where it is not."""
        control = self._children.get("control")
        return control.ready.clickhouse if control is not None and control.ready else ""

    async def __aenter__(self) -> "Supervisor":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Bring everything up; when this returns, requests are answered.

        `config` is then the resolved configuration, with the engines' addresses.

        Raises:
            UnavailableError: Another supervisor runs in this home.
            StartupError: A child did not come up; everything else is stopped again.
        """
        self._held.enter_context(only_one(self._home / "run" / "lock", "fungible"))
        try:
            self._spool = SpoolWriter(self._home / "spool", "supervisor")
            self._leases = Leases(self._spool)
            await self._start_engines(self._leases)
            resolved = self._write_resolved()
            await self._start_server("control", resolved)
            await self._start_server("gateway", resolved)
        except BaseException:
            await self.stop()
            raise
        self._spawn(self._leases.keep(lambda what: self._progress("supervisor", what)))
        for name, child in self._children.items():
            self._spawn(self._keep_up(name, child))

    async def stop(self) -> None:
        """End everything: gateway, engines, then control, which ships what they left."""
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers.clear()
        control = self._children.pop("control", None)
        gateway = self._children.pop("gateway", None)
        try:
            if gateway is not None:
                await self._stop(gateway, GATEWAY_STOP_S)
            engines = list(self._children.values())
            await asyncio.gather(*(self._stop(child, ENGINE_STOP_S) for child in engines))
            if self._leases is not None:
                await self._leases.end(*self.config.backend)
        finally:
            self._children.clear()
            if self._spool is not None:
                await asyncio.to_thread(self._spool.close)
            if control is not None:
                await self._stop(control, CONTROL_STOP_S)
            self._held.close()

    def _url(self, name: str) -> str:
        child = self._children.get(name)
        if child is None or child.ready is None:
            raise StartupError(f"{name} is not running")
        return child.ready.url

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._watchers.append(asyncio.create_task(work))

    async def _start_engines(self, leases: Leases) -> None:
        slots = asyncio.Semaphore(ENGINES_AT_ONCE)

        async def start_one(name: str, backend: BackendSettings, engine: EngineSettings) -> None:
            async with slots:
                steps = step_log_path(self._home, name)
                steps.parent.mkdir(exist_ok=True)
                arguments = engine_arguments(
                    backend, engine, base=self._base, home=self._home, step_log=steps
                )
                child = self._child(f"engine-{name}", arguments)
                began = time.time_ns()
                ready = await self._start(child, ENGINE_START_S)
                child.arguments = [*arguments, "--port", _port(ready.url)]
                await leases.begin(name, backend.accelerator, began)

        tasks = [
            asyncio.create_task(start_one(name, backend, backend.engine))
            for name, backend in self.config.backend.items()
            if backend.engine is not None
        ]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def _write_resolved(self) -> Path:
        """The configuration with absolute paths and the engines' addresses filled in."""
        backends = {
            name: msgspec.structs.replace(backend, url=f"{self._url(f'engine-{name}')}/v1")
            if backend.engine
            else backend
            for name, backend in self.config.backend.items()
        }
        prices = (
            str(Path(self.config.ledger.prices).absolute()) if self.config.ledger.prices else ""
        )
        self.config = msgspec.structs.replace(
            self.config,
            home=str(self._home),
            backend=backends,
            ledger=msgspec.structs.replace(self.config.ledger, prices=prices),
        )
        path = self._home / "run" / "config.json"
        # Backend options may hold secrets, so the file is for this user only.
        write_atomic(path, msgspec.json.format(msgspec.json.encode(self.config)), mode=0o600)
        return path

    async def _start_server(self, name: str, resolved: Path) -> None:
        arguments = [name, "serve", "--config", str(resolved)]
        child = self._child(name, arguments)
        ready = await self._start(child, SERVER_START_S)
        child.arguments = [*arguments, "--port", _port(ready.url)]
        if ready.clickhouse:
            child.arguments += ["--clickhouse-port", _port(ready.clickhouse)]

    def _child(self, name: str, arguments: list[str]) -> Child:
        child = Child(name, arguments, self._home / "logs" / f"{name}.log")
        self._children[name] = child
        return child

    async def _start(self, child: Child, timeout_s: float) -> ReadyLine:
        self._progress(child.name, "starting")
        ready = await child.start(timeout_s)
        self._progress(child.name, "ready")
        return ready

    async def _stop(self, child: Child, grace_s: float) -> None:
        self._progress(child.name, "stopping")
        await child.stop(grace_s)
        self._progress(child.name, "stopped")

    async def _keep_up(self, name: str, child: Child) -> None:
        """Start `child` again whenever it ends, at the same address."""
        failures, began = 0, time.monotonic()
        while True:
            code = await child.wait()
            self._progress(name, f"ended with exit code {code}; starting again")
            failures = 0 if time.monotonic() - began > SETTLED_S else failures
            began = time.monotonic()
            try:
                await self._end_lease(name)
                await child.stop(0.0)
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                since = time.time_ns()
                await self._start(child, ENGINE_START_S)
                await self._begin_lease(name, since)
            except (FungibleError, OSError) as error:
                # Not up yet: the child has ended, so the next turn tries again, later.
                self._progress(name, str(error))
            failures += 1

    async def _end_lease(self, child: str) -> None:
        if self._leases is not None and child.startswith("engine-"):
            await self._leases.end(child.removeprefix("engine-"))

    async def _begin_lease(self, child: str, since_ns: int) -> None:
        if self._leases is not None and child.startswith("engine-"):
            backend = child.removeprefix("engine-")
            accelerator = self.config.backend[backend].accelerator
            await self._leases.begin(backend, accelerator, since_ns)


def _port(url: str) -> str:
    return url.rsplit(":", 1)[1]
