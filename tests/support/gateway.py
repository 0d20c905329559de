"""The gateway's application with a way to call it, to see its rows and to move its routes."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fungible.config import Config
from fungible.contract.events import AttemptEvent
from fungible.gateway.app import build_gateway
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher
from fungible.routing.table import Admission, Route, RouteTable
from support.edge import Asked
from support.rows import rows

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class GatewayInProcess:
    """Ask it while it is running."""

    def __init__(self, config: Config, config_path: Path | None = None) -> None:
        self.config = config
        bound = config.ledger.max_spool_bytes
        self.spool = SpoolWriter(config.spool_path(), "gateway", max_bytes=bound)
        self.dispatcher = Dispatcher(config=config, spool=self.spool)
        self.app = build_gateway(config, self.dispatcher, self.spool, config_path)

    def call(
        self,
        body: object = None,
        *,
        path: str = "/v1/chat/completions",
        key: str = "",
        get: bool = False,
    ) -> Asked:
        """A request under way."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        method = "GET" if get else "POST"
        return Asked(self.app.serve, method, path, BODY if body is None else body, headers)

    async def ask(self, key: str = "", **fields: Any) -> Asked:
        """A chat completion, answered."""
        return await self.call({**BODY, **fields}, key=key).done()

    def rows(self) -> list[AttemptEvent]:
        return rows(self.config.spool_path())

    def activate(self, table: RouteTable | bytes) -> None:
        """Write the table as control does: at once or not at all."""
        path = self.config.home_path() / "run" / "routes.json"
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(table if isinstance(table, bytes) else msgspec.json.encode(table))
        fresh.rename(path)


Make = Callable[..., contextlib.AbstractAsyncContextManager[GatewayInProcess]]


def table(
    version: int,
    weights: dict[str, float],
    *,
    bindings: dict[str, str] | None = None,
    lives_s: float = 3600,
    **fields: Any,
) -> RouteTable:
    """Routes of model `m` with reference `a`; `bindings` are admitted."""
    admissions = {
        name: Admission(
            verdict_id="v1", binding=binding, expires_ns=time.time_ns() + int(lives_s * 1e9)
        )
        for name, binding in (bindings or {}).items()
    }
    route = Route(model="m", reference="a", weights=weights, admissions=admissions, **fields)
    return RouteTable(version=version, routes={"m": route})
