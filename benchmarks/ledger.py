"""What the ledger takes in, how fast it answers a dashboard, and what it takes on disk.

    uv run python benchmarks/ledger.py --quick                          # 200,000 rows, no peer
    uv run python benchmarks/ledger.py --rows 10000000 --peer postgres
    uv run python benchmarks/ledger.py --freshness 30                   # attempts until queryable

Events are generated (large customers and many small ones, 60 days) and priced; beyond two
million rows the same lines are written by SQL. Then come the five questions of a dashboard, from
the rollups and from the rows. The peer holds the same calls in LiteLLM's spend table. Method:
docs/guides/benchmarks.md.
"""

import argparse
import contextlib
import datetime as dt
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fungible.ledger.store import Store, open_store
from peers import machine
from spend import freshness, ours, postgres, questions

PRICED_ROWS = 2_000_000  # more take too long to price one by one
HERE = Path(__file__).resolve().parent


def measure_ours(store: Store, home: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Load, price and ask our ledger."""
    generated = ours.generate(store, rows)
    _say(f"{rows} rows generated into the ledger in {generated:.0f} s; pricing")
    by_sql = rows > PRICED_ROWS
    priced = ours.write_lines(store) if by_sql else ours.price(store, ours.price_book(home))
    ours.settled(store)
    _say(f"lines written in {priced:.0f} s; asking")
    sizes = ours.disk(store)
    return {
        "generated_rows_per_s": round(rows / generated),
        "lines": "written by SQL" if by_sql else "priced",
        "lines_per_s": round(rows / priced),
        "rollups_ms": ours.ask(store, questions.ROLLED, rounds),
        "rows_ms": ours.ask(store, questions.RAW, max(2, rounds // 3)),
        "same_answers": ours.answers(store),
        "total": f"{_total(store):.4f}",
        "rollup_rows": _rollup_rows(store),
        "disk": sizes,
        "disk_mb_per_million": round(sum(sizes.values()) / rows, 1),
    }


def measure_peer(store: Store, home: Path, rows: int, rounds: int) -> dict[str, Any]:
    """The same rows in the peer's table, or why not."""
    try:
        with postgres.started(home) as peer:
            files = ours.write_csv(store, home)
            _say("loading the peer")
            took = peer.load(files)
            for path in files:
                path.unlink()
            _say(f"the peer has loaded in {took:.0f} s; asking")
            sizes = peer.disk()
            return {
                "copied_rows_per_s": round(rows / took),
                "rows_ms": peer.ask(ours.PARAMS, max(2, rounds // 3)),
                "total": peer.total(ours.FROM_S),
                "disk": sizes,
                "disk_mb_per_million": round(sum(sizes.values()) / rows, 1),
            }
    except postgres.PeerError as error:
        return {"failed": str(error)}


def _total(store: Store) -> Any:  # noqa: ANN401  # a Decimal
    sql = "SELECT sum(delta) FROM cost_lines WHERE at_ns >= {from:Int64} * 1000000000"
    return store.query(sql, {"from": ours.FROM_S}).rows[0][0]


def _rollup_rows(store: Store) -> dict[str, int]:
    names = ("usage_hours", "customer_hours", "customer_days", "backend_minutes")
    return {name: int(store.query(f"SELECT count() FROM {name}").rows[0][0]) for name in names}


def show(console: Console, results: dict[str, Any]) -> None:
    """The questions beside each other, medians in ms."""
    mine, peer = results["fungible"], results.get("postgres", {})
    table = Table(title=f"{results['run']['rows']:,} rows: median ms", title_justify="left")
    for column in ("question", "rollups", "p95", "rows", "LiteLLM's table", "times"):
        table.add_column(column, justify="left" if column == "question" else "right")
    for name in questions.NAMES:
        rolled, rows = mine["rollups_ms"][name], mine["rows_ms"][name]
        other = peer.get("rows_ms", {}).get(name)
        median = statistics.median(rolled)
        table.add_row(
            name,
            f"{median:.1f}",
            f"{_p95(rolled):.1f}",
            f"{statistics.median(rows):.0f}",
            f"{statistics.median(other):.0f}" if other else "",
            f"{statistics.median(other) / median:.0f}" if other else "",
        )
    console.print(table)
    console.print(
        f"disk, MB per million rows: {mine['disk_mb_per_million']}"
        f" (peer {peer.get('disk_mb_per_million')});"
        f" same answers: {all(mine['same_answers'].values())};"
        f" totals {mine['total']} and {peer.get('total')}"
    )
    if "failed" in peer:
        console.print(f"the peer was not measured: {peer['failed']}")


def _p95(values: list[float]) -> float:
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)]


def main_freshness(arguments: argparse.Namespace) -> int:
    """Exit status: 0 when every attempt was seen."""
    load = machine.load_1min()
    with tempfile.TemporaryDirectory(prefix="ledger-bench-", dir=arguments.dir) as folder:
        found = freshness.measure(
            Path(folder), seconds=arguments.freshness, rate=arguments.freshness_rate
        )
    loads = [load, machine.load_1min()]
    results = {"freshness": found, "run": machine.facts() | {"load_1min": loads}}
    if arguments.json:
        print(json.dumps(results))
    else:
        ms = found["ms"]
        print(
            f"{found['seen']} of {found['attempts']} attempts at {found['rate_per_s']}/s:"
            f" queryable after p50 {ms['p50']}, p95 {ms['p95']}, at most {ms['max']} ms;"
            f" control used {found['cores']} cores; load {loads}"
        )
    _record(arguments, results)
    return 0 if found["seen"] == found["attempts"] else 1


def main() -> int:
    """Exit status: 0 when rollups and rows give the same answers."""
    arguments = _arguments()
    if arguments.freshness:
        return main_freshness(arguments)
    load = machine.load_1min()
    with tempfile.TemporaryDirectory(prefix="ledger-bench-", dir=arguments.dir) as folder:
        home = Path(folder)
        with contextlib.closing(open_store(f"chdb://{home}/ledger")) as store:
            store.migrate()
            results: dict[str, Any] = {
                "fungible": measure_ours(store, home, arguments.rows, arguments.rounds)
            }
            if arguments.peer:
                results[arguments.peer] = measure_peer(
                    store, home, arguments.rows, arguments.rounds
                )
    results["run"] = machine.facts() | {
        "rows": arguments.rows,
        "rounds": arguments.rounds,
        "load_1min": [load, machine.load_1min()],
    }
    if arguments.json:
        print(json.dumps(results))
    else:
        show(Console(width=None if sys.stdout.isatty() else 140), results)
    _record(arguments, results)
    return 0 if all(results["fungible"]["same_answers"].values()) else 1


def _record(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    out = arguments.out
    if out is None and not arguments.quick:
        out = HERE / "results" / f"ledger-{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}.jsonl"
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(results) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, default=10_000_000)
    add("--rounds", type=int, default=20, help="of each question from the rollups")
    add("--quick", action="store_true", help="200,000 rows, no peer; records nothing")
    add("--peer", choices=["postgres"], help="LiteLLM's spend table in Debian's PostgreSQL")
    add("--freshness", type=int, metavar="SECONDS", help="only how soon attempts are queryable")
    add("--freshness-rate", type=int, default=500, help="attempts a second of --freshness")
    add("--dir", type=Path, help="where the data goes meanwhile (the system's temporary directory)")
    add("--json", action="store_true", help="the result as data on standard output")
    add("--out", type=Path, help="results file, appended (benchmarks/results/ledger-DATE.jsonl)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.peer = 200_000, None
    return arguments


if __name__ == "__main__":
    sys.exit(main())
