"""A real gateway process before the scriptable model server, with its rows in reach."""

import dataclasses
import time
from pathlib import Path

import msgspec

from faults import catalogue, client, gateways
from faults.rows import rows_of, wait_for
from fungible.config import load_config
from fungible.contract.events import AttemptEvent
from fungible.routing.table import Admission, RouteTable, Shadow, initial_table

# Models with two backends each; the first one fails.
SECOND_TRIES = {
    f"{name}-then-none": name for name in ("cut-first", "stall-first", "limited", "html", "cut")
}
# Models that are asked for elsewhere, too: while the first is silent, again, or as a copy.
HEDGED = {f"{name}-hedged": name for name in ("stall-first", "slow-headers")}
RETRIED = "limited-retried"
SHADOWED = {
    f"none-shadowed-by-{name}": name for name in ("none", "cut", "cut-first", "error-whole")
}


@dataclasses.dataclass
class Suite:
    place: gateways.Place

    def ask(self, model: str, *, stream: bool = True, **how: object) -> client.Seen:
        return client.ask(self.place.url, model, stream=stream, **how)  # type: ignore[arg-type]

    def rows(self, model: str) -> list[AttemptEvent]:
        assert self.place.spool is not None
        return rows_of(self.place.spool, model=model)

    def after(self, model: str, count: int) -> list[AttemptEvent]:
        """Rows of a model once there are `count`."""
        assert self.place.spool is not None
        return wait_for(self.place.spool, count, model=model)

    def last(self, model: str, **how: object) -> tuple[client.Seen, AttemptEvent]:
        """An answer and the row it left."""
        before = len(self.rows(model))
        seen = self.ask(model, stream=catalogue.FAULTS[model].stream, **how)
        rows = self.after(model, before + 1)
        assert len(rows) == before + 1
        return seen, rows[-1]


def second_tries() -> str:
    """Their routes, as configuration."""
    routes = {model: (first, "") for model, first in SECOND_TRIES.items()}
    routes |= {model: (first, "hedge_after_ms = 100\n") for model, first in HEDGED.items()}
    found = [
        f'[route."{model}"]\nreference = "{first}"\nbackends = ["none"]\nretries = 0\n{more}'
        for model, (first, more) in routes.items()
    ]
    found += [
        f'[route."{model}"]\nreference = "none"\nbackends = ["{copy}"]\nretries = 0\n'
        for model, copy in SHADOWED.items()
        if copy != "none"
    ]
    found.append('[route."none-shadowed-by-none"]\nreference = "none"\nretries = 0\n')
    found.append(f'[route."{RETRIED}"]\nreference = "limited"\nretries = 1\n')
    return "".join(found)


def admit(path: Path) -> None:
    """Activate a table in which the second backends may serve, as control does after a verdict."""
    config = load_config(path)
    table = initial_table(config)
    admission = Admission(
        verdict_id="v1", binding=config.bindings()["none"], expires_ns=time.time_ns() + 10**13
    )
    routes = dict(table.routes)
    for model in (*SECOND_TRIES, *HEDGED):
        routes[model] = msgspec.structs.replace(
            routes[model], fallback=["none"], admissions={"none": admission}
        )
    for model, copy in SHADOWED.items():
        shadow = Shadow(backend=copy, share=1.0)
        routes[model] = msgspec.structs.replace(routes[model], shadow=shadow)
    file = config.home_path() / "run" / "routes.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(msgspec.json.encode(RouteTable(version=1, routes=routes)))
