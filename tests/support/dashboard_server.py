"""The live page over a real ledger of its own, in a process of its own.

`python -m support.dashboard_server HOME [NOW_NS]`: with a time, the ledger is filled with the
seeded loop that ended then, and its last route table is active. `running` starts one.
`POST /test/attempts` with `{"backend", "feature", "count"}` adds attempts that end now, priced.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fungible.cli.serve import bind, run_server
from fungible.config import BackendSettings, Config, EngineSettings, LedgerSettings, RouteSettings
from fungible.contract.events import Record
from fungible.dashboard.app import dashboard_routes
from fungible.ledger.pricing import reprice
from fungible.ledger.sheets import load_book
from fungible.ledger.store import Store, open_store
from fungible.routing.table import Route as ActiveRoute
from fungible.routing.table import RouteTable
from support.dashboard_events import CANDIDATE, REFERENCE, REFUSED, S, attempt, lease, loop

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
        who = {"feature": wanted["feature"], "customer": "acme"}
        records: list[Record] = [
            attempt(next(numbers), backend=wanted["backend"], ended_ns=now, **who)
            for _ in range(wanted["count"])
        ]
        if len(sys.argv) > 2:
            began = int(sys.argv[2]) - 600 * S
            records += [lease(backend, began, now) for backend in (REFERENCE, CANDIDATE)]
        store.insert(records, f"live-{now}")
        reprice(store, load_book(config), now)
        return JSONResponse({"added": len(records)})

    return Route("/test/attempts", add, methods=["POST"])


def _activate(home: Path) -> None:
    route = ActiveRoute(model="assistant", reference=REFERENCE, weights={CANDIDATE: 1.0})
    table = RouteTable(version=4, routes={"assistant": route}, reason="mig_1 promoted")
    (home / "run").mkdir(exist_ok=True)
    (home / "run" / "routes.json").write_bytes(msgspec.json.encode(table))


@contextmanager
def running(home: Path, now_ns: int | None = None) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The server's URL and process; it ends with the `with` block."""
    command = [sys.executable, "-m", "support.dashboard_server", str(home)]
    command += [] if now_ns is None else [str(now_ns)]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the server did not start: {process.stderr.read()}")
        yield msgspec.json.decode(line)["url"], process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def main() -> None:
    """Fill, price, serve until stopped."""
    home = Path(sys.argv[1])
    config = config_of(home)
    store = open_store(config.ledger_dsn())
    store.migrate()
    if len(sys.argv) > 2:
        store.insert(loop(int(sys.argv[2])), "loop")
        _activate(home)
    reprice(store, load_book(config), time.time_ns())
    add = _add_attempts(store, config, itertools.count(900_000))
    app = Starlette(routes=[add, *dashboard_routes(store, config)])
    run_server(app, bind("127.0.0.1", 0), name="dashboard")
    store.close()


if __name__ == "__main__":
    main()
