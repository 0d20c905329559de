"""Every store of limits, each on a real server of its own where it needs one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fungible.limits.memory import MemoryStore
from fungible.limits.sqlite import SqliteStore
from fungible.limits.store import LimitStore


@pytest.fixture(params=["memory", "sqlite"])
async def limit_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LimitStore]:
    """An open, empty store of each kind."""
    found: LimitStore
    if request.param == "memory":
        found = MemoryStore()
    else:
        found = SqliteStore(str(tmp_path / "limits.db"), 5.0)
    await found.open()
    yield found
    await found.close()
