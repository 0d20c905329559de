"""Every store of limits, each on a real server of its own where it needs one."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from fungible.config import Config, LimitsSettings
from fungible.limits.store import LimitStore, build_store
from support.servers import postgres_server, redis_server


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    with postgres_server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def redis_dsn() -> Iterator[str]:
    with redis_server() as dsn:
        yield dsn


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def limit_dsn(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The DSN of an empty store of each kind."""
    if request.param == "postgres":
        dsn: str = request.getfixturevalue("postgres_dsn")
        with psycopg.connect(dsn) as db:
            db.execute("DROP TABLE IF EXISTS fungible_limit_bucket, fungible_limit_hold")
        return dsn
    if request.param == "redis":
        dsn = request.getfixturevalue("redis_dsn")
        with redis.Redis.from_url(dsn) as client:
            client.flushdb()
        return dsn
    return "memory://" if request.param == "memory" else f"sqlite://{tmp_path}/limits.db"


@pytest.fixture
async def limit_store(limit_dsn: str) -> AsyncIterator[LimitStore]:
    """An open, empty store of each kind."""
    settings = LimitsSettings(store=limit_dsn, store_timeout_s=10.0)
    found = build_store(Config(limits=settings))
    await found.open()
    yield found
    await found.close()
