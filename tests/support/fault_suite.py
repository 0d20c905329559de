"""A real gateway process before the scriptable model server, with its rows in reach."""

import dataclasses
import time
from pathlib import Path

import msgspec

from faults import catalogue, client, gateways
from faults.rows import rows_of, wait_for
from fungible.config import load_config
from fungible.contract.events import AttemptEvent
from fungible.routing.table import Admission, RouteTable, initial_table

# Models with two backends each; the first one fails.
SECOND_TRIES = {
    f"{name}-then-none": name for name in ("cut-first", "stall-first", "limited", "html", "cut")
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
    return "".join(
        f'[route."{model}"]\nreference = "{first}"\nbackends = ["none"]\nretries = 0\n'
        for model, first in SECOND_TRIES.items()
    )


def admit(path: Path) -> None:
    """Activate a table in which the second backends may serve, as control does after a verdict."""
    config = load_config(path)
    table = initial_table(config)
    admission = Admission(
        verdict_id="v1", binding=config.bindings()["none"], expires_ns=time.time_ns() + 10**13
    )
    routes = {
        model: msgspec.structs.replace(route, fallback=["none"], admissions={"none": admission})
        if model in SECOND_TRIES
        else route
        for model, route in table.routes.items()
    }
    file = config.home_path() / "run" / "routes.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(msgspec.json.encode(RouteTable(version=1, routes=routes)))
