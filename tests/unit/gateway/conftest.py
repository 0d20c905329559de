"""A gateway in this process, over scripted backends, with a real spool."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fungible.config import Config
from support.gateway import GatewayInProcess, Make
from support.upstream import Upstream


@pytest.fixture
def serving(tmp_path: Path) -> Make:
    """`async with serving(backend={...}, ...) as gateway`: the fields of `Config`."""

    @contextlib.asynccontextmanager
    async def make(**fields: Any) -> AsyncIterator[GatewayInProcess]:
        gateway = GatewayInProcess(Config(home=str(tmp_path), **fields))
        async with gateway.app.running():
            yield gateway

    return make


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server
