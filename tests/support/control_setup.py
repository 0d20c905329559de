"""Configurations and rows that tests of control and migrations share."""

import time
from pathlib import Path
from typing import Any

import msgspec

from fungible.config import (
    BackendSettings,
    Config,
    ControlSettings,
    GatewaySettings,
    MigrationPolicy,
    RouteSettings,
    binding_of,
)
from fungible.contract.events import VerdictEvent
from fungible.contract.ids import new_id
from fungible.migrate.observations import AttemptRow

MODEL, REFERENCE, CANDIDATE = "assistant", "ref", "cand"
HOUR_NS = 3_600 * 10**9


def config_in(
    home: Path, *, candidate: dict[str, Any] | None = None, policy: MigrationPolicy | None = None
) -> Config:
    """A reference and a candidate that answer by script, on free ports."""
    return Config(
        home=str(home),
        gateway=GatewaySettings(port=0),
        control=ControlSettings(port=0),
        backend={
            REFERENCE: BackendSettings(kind="null"),
            CANDIDATE: BackendSettings(kind="null", options=candidate or {}),
        },
        route={
            MODEL: RouteSettings(reference=REFERENCE, backends=[CANDIDATE], fallback=[REFERENCE])
        },
        migration=policy or MigrationPolicy(),
    )


def write_config(config: Config) -> Path:
    """The configuration as a file in its own home."""
    path = config.home_path() / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(config))
    return path


def verdict_on(config: Config, **changes: Any) -> VerdictEvent:
    """A passing verdict on exactly the candidate of `config`."""
    now = time.time_ns()
    passing = VerdictEvent(
        verdict_id=new_id("ver_"),
        model=MODEL,
        suite="everyday",
        suite_hash="s",
        plan_hash="p",
        candidate=CANDIDATE,
        reference=REFERENCE,
        binding=binding_of(CANDIDATE, config.backend[CANDIDATE]),
        reference_binding=binding_of(REFERENCE, config.backend[REFERENCE]),
        outcome="pass",
        items=200,
        reference_score=0.8,
        candidate_score=0.8,
        margin=0.05,
        loss_upper=0.01,
        decided_ns=now,
        expires_ns=now + HOUR_NS,
    )
    return msgspec.structs.replace(passing, **changes)


def row(number: int, backend: str, kind: str = "serve", **changes: Any) -> AttemptRow:
    """A clean attempt that started at `number` ns."""
    clean = AttemptRow(
        attempt_id=f"{backend}-{kind}-{number}",
        request_id=f"req-{number}",
        kind=kind,
        backend=backend,
        status="ok",
        http_status=200,
        finish_reason="stop",
        output_chars=10,
        output_hash="same",
        started_ns=number,
    )
    return msgspec.structs.replace(clean, **changes)
