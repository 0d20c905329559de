"""The live page over a real ledger of its own, in a process of its own.

`python -m support.dashboard_server HOME [loop]`: `loop` fills the ledger with the seeded loop.
`POST /test/attempts` with `{"backend", "count"}` adds attempts that end now, priced.
"""

import itertools
import sys
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fungible.cli.serve import bind, run_server
from fungible.config import BackendSettings, Config, EngineSettings, LedgerSettings, RouteSettings
from fungible.contract.events import Record
from fungible.dashboard.app import dashboard_routes
from fungible.ledger.prices import load_book
from fungible.ledger.pricing import reprice
from fungible.ledger.store import Store, open_store
from support.dashboard_events import CANDIDATE, REFERENCE, REFUSED, attempt, loop

SHEET = """\
key,unit,leaf,price,currency,source,note
cpu-2-cores,hour,,0.0900,USD,example,simulated: the price of a two-core machine
int4,1M_tokens,input,0.10,USD,example,
int4,1M_tokens,output,0.40,USD,example,
"""


def config_of(home: Path) -> Config:
    """Three backends on one route; two are paid by the hour, one by the token."""

    def engine(target: str, variant: str, price: str) -> BackendSettings:
        settings = EngineSettings(artifact="sha256:0", target=target, variant=variant)
        return BackendSettings(accelerator="cpu-x86", price=price, engine=settings)

    prices = home / "prices.csv"
    prices.write_text(SHEET, encoding="utf-8")
    backends = {
        REFERENCE: engine("xla:cpu", "f32", "cpu-2-cores"),
        CANDIDATE: engine("onnxruntime:cpu", "int8", "cpu-2-cores"),
        REFUSED: engine("onnxruntime:cpu", "int4-naive", "int4"),
    }
    route = RouteSettings(reference=REFERENCE, backends=[CANDIDATE, REFUSED])
    return Config(
        home=str(home),
        ledger=LedgerSettings(prices=str(prices)),
        backend=backends,
        route={"assistant": route},
    )


def _add_attempts(store: Store, config: Config, numbers: "itertools.count[int]") -> Route:
    async def add(request: Request) -> Response:
        wanted = await request.json()
        now = time.time_ns()
        records: list[Record] = [
            attempt(next(numbers), backend=wanted["backend"], ended_ns=now, feature="chat")
            for _ in range(wanted["count"])
        ]
        store.insert(records, f"live-{now}")
        reprice(store, load_book(config), now)
        return JSONResponse({"added": len(records)})

    return Route("/test/attempts", add, methods=["POST"])


def main() -> None:
    """Fill, price, serve until stopped."""
    home = Path(sys.argv[1])
    config = config_of(home)
    store = open_store(config.ledger_dsn())
    store.migrate()
    now = time.time_ns()
    if "loop" in sys.argv[2:]:
        store.insert(loop(now), "loop")
    reprice(store, load_book(config), now)
    add = _add_attempts(store, config, itertools.count(900_000))
    app = Starlette(routes=[add, *dashboard_routes(store, config)])
    run_server(app, bind("127.0.0.1", 0), name="dashboard")
    store.close()


if __name__ == "__main__":
    main()
