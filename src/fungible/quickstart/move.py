"""Moves traffic to the winner while requests keep coming."""

import asyncio
import time
from typing import Any

from fungible.control.client import ControlClient
from fungible.errors import UnavailableError
from fungible.quickstart.progress import Stage
from fungible.quickstart.setup import MODEL
from fungible.quickstart.traffic import burst
from fungible.routing.table import RouteTable

_ENDED = {"promoted", "rolled_back", "refused"}
_STEPS = {"gated": 0, "shadow": 1, "canary": 2, "promoted": 3}
LIMIT_S = 240.0
SETTLED_REQUESTS = 12


def reset_route(client: ControlClient, model: str, reference: str) -> None:
    """Send everything to the reference again, as a new version, if an earlier run moved it.

    A migration that an interrupted run left behind is rolled back first.
    """
    for migration in client.get("/api/migrations", dict[str, list[dict[str, Any]]])["data"]:
        if migration["model"] == model and migration["state"] not in _ENDED:
            client.post(f"/api/migrations/{migration['migration_id']}/rollback", {}, dict)
    table = client.get("/api/routes", RouteTable)
    if table.routes[model].weights.get(reference, 0) == sum(table.routes[model].weights.values()):
        return
    body = {"version": 0, "reason": "the quickstart starts from the reference"}
    client.post("/api/routes/activate", body, dict)


async def migrate(
    client: ControlClient, base_url: str, candidate: str, stage: Stage
) -> dict[str, Any]:
    """Start a migration and send traffic until it has ended; its last state.

    Raises:
        RefusedError: Control did not admit the candidate.
        UnavailableError: It did not end in time.
    """
    body = {"model": MODEL, "candidate": candidate}
    opened: dict[str, Any] = await asyncio.to_thread(client.post, "/api/migrations", body, dict)
    stop = asyncio.Event()
    traffic = asyncio.create_task(
        burst(base_url, requests=5_000, concurrency=6, max_tokens=8, seed=1, stop=stop)
    )
    try:
        ended = await _follow(client, opened["migration_id"], stage)
    finally:
        stop.set()
        await traffic
    # The first requests of the new route: what the page shows from here on.
    await burst(base_url, requests=SETTLED_REQUESTS, concurrency=4, max_tokens=8, seed=2)
    return ended


async def _follow(client: ControlClient, migration_id: str, stage: Stage) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        state: dict[str, Any] = await asyncio.to_thread(
            client.get, f"/api/migrations/{migration_id}", dict
        )
        stage.update(_STEPS.get(state["state"], 3), 3)
        if state["state"] in _ENDED:
            return state
        await asyncio.sleep(0.5)
    raise UnavailableError(
        f"the migration did not end within {LIMIT_S:.0f} s; it is in {state['state']}",
        hint="follow it with `fungible migrate status`",
    )
