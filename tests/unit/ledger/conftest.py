"""A ledger per test: the embedded engine reopens in milliseconds, but holds one path at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fungible.contract.events import AttemptEvent, LeaseEvent
from fungible.ledger.store import Store, open_store

S = 1_000_000_000
MINUTE = 60 * S
T0 = 1_790_000_040 * S  # the beginning of a minute


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/ledger"


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    opened = open_store(dsn)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def attempt() -> Callable[..., AttemptEvent]:
    def make(name: str, **changes: Any) -> AttemptEvent:
        fields: dict[str, Any] = {
            "attempt_id": f"att_{name}",
            "request_id": f"req_{name}",
            "attempt_no": 0,
            "kind": "serve",
            "endpoint": "chat/completions",
            "model": "assistant",
            "backend": "by-token",
            "backend_kind": "openai_http",
            "started_ns": T0,
            "ended_ns": T0 + S,
            "status": "ok",
            "in_uncached": 1000,
            "in_cache_read": 0,
            "in_cache_write": 0,
            "out_visible": 100,
            "out_reasoning": 0,
            "usage_source": "provider_final",
        }
        return AttemptEvent(**(fields | changes))

    return make


@pytest.fixture
def lease() -> Callable[..., LeaseEvent]:
    def make(name: str = "lease", **changes: Any) -> LeaseEvent:
        fields: dict[str, Any] = {
            "lease_id": name,
            "backend": "by-hour",
            "accelerator": "cpu-x86",
            "started_ns": T0,
            "seen_ns": T0 + 60 * S,
        }
        return LeaseEvent(**(fields | changes))

    return make
