"""A dispatcher over null backends and over scripted upstreams."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fungible.config import BackendSettings, Config, GatewaySettings, LedgerSettings, RouteSettings
from support.dispatching import Make, Setup
from support.upstream import Upstream


@pytest.fixture
def dispatching(tmp_path: Path) -> Make:
    """`async with dispatching(name=BackendSettings(...) or null options, ...) as setup`."""

    @contextlib.asynccontextmanager
    async def make(
        *,
        limits: GatewaySettings | None = None,
        ledger: LedgerSettings | None = None,
        routes: dict[str, RouteSettings] | None = None,
        **backends: BackendSettings | dict[str, Any],
    ) -> AsyncIterator[Setup]:
        config = Config(
            home=str(tmp_path),
            gateway=limits or GatewaySettings(),
            ledger=ledger or LedgerSettings(),
            route=routes or {},
            backend={
                name: BackendSettings(kind="null", options=one) if isinstance(one, dict) else one
                for name, one in backends.items()
            },
        )
        setup = Setup(config)
        await setup.dispatcher.start()
        try:
            yield setup
        finally:
            await setup.dispatcher.close()
            setup.spool.close()

    return make


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server
