"""What the gateway costs: CPU time beside named peers, added latency, scaling and idle streams.

    uv run python benchmarks/gateway_overhead.py [--peers litellm,portkey,tensorzero,nginx]
    uv run python benchmarks/gateway_overhead.py --quick      # ours alone, under a minute

The upstreams answer at once, so what is measured is the gateway. Ours runs with everything on:
routing, a hashed key, metering and the durable row of every attempt; that every answer has its
row is checked. Method: docs/guides/benchmarks.md.
"""

import argparse
import contextlib
import datetime as dt
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from gateway import bars, further, idle, nginx, overhead, tensorzero
from gateway.gateways import PEERS, SERVED, Gateway, Upstreams, fungible
from gateway.load import LoadError
from gateway.processes import StartError, running
from peers import machine
from peers.catalogue import OURS
from peers.environments import NotInstalledError

HERE = Path(__file__).resolve().parent


@contextlib.contextmanager
def upstreams(arguments: argparse.Namespace, home: Path) -> Iterator[Upstreams]:
    """Both upstreams, in processes of their own."""
    program = nginx.binary(arguments.peers_dir, install=not arguments.no_install)
    script = HERE / "gateway" / "stream_upstream.py"
    with (
        nginx.instant(program, home / "instant") as (whole, _),
        running([sys.executable, script], home / "streams.log") as streams,
    ):
        yield Upstreams(whole=whole, streams=f"127.0.0.1:{streams.said['port']}")


def measure(
    name: str, arguments: argparse.Namespace, where: Upstreams, home: Path
) -> overhead.Sample:
    """One gateway, or why it could not be measured."""
    sample = overhead.Sample()
    install = not arguments.no_install
    try:
        if name == "tensorzero":
            return tensorzero.measure(where, home, arguments, install=install)
        serve = (
            fungible(where, home)
            if name == OURS
            else SERVED[name](where, home, arguments.peers_dir, install)
        )
        with serve as gateway:
            _check(gateway, sample, arguments, home)
    except (LoadError, StartError, NotInstalledError) as error:
        sample.failed = str(error)
    return sample


def _check(
    gateway: Gateway, sample: overhead.Sample, arguments: argparse.Namespace, home: Path
) -> None:
    overhead.measure(gateway, sample, home, seconds=arguments.seconds, rounds=arguments.rounds)
    if gateway.spool is not None:
        sample.rows = overhead.rows_in(gateway.spool)
        if sample.rows < sample.asked:
            raise LoadError(f"{sample.asked} answers have {sample.rows} rows")


def main() -> int:
    """Exit status: 0 when every bar that could be judged is met, else 1."""
    arguments = _arguments()
    uvloop.install()
    names = [OURS, *arguments.peers]
    load = machine.load_1min()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        home = Path(folder)
        with upstreams(arguments, home) as where:
            samples = {}
            for name in names:
                print(f"measuring {name}", file=sys.stderr, flush=True)
                samples[name] = measure(name, arguments, where, home / name)
            more = further.measure(further.Wanted.of(arguments), where, home)
    results: dict[str, Any] = {name: sample.result() for name, sample in samples.items()}
    results[OURS] |= more
    judged = bars.judge(results)
    results["bars"] = judged
    results["run"] = machine.facts() | {
        "quick": arguments.quick,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "load_1min": [load, machine.load_1min()],
    }
    if arguments.json:
        print(json.dumps(results))
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        bars.show(console, results)
        further.show(console, results[OURS])
    _record(arguments, results)
    failed = "failed" in results[OURS] or further.failed(more)
    return 0 if all(bar["met"] for bar in judged) and not failed else 1


def _record(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    out: Path | None = arguments.out
    if out is None and not arguments.quick:
        out = HERE / "results" / f"gateway-{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}.jsonl"
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.write(json.dumps(results) + "\n")
    out.with_suffix(".svg").write_text(bars.chart(results))
    print(out, file=sys.stderr)


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name and name != OURS]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(PEERS)}")
    return names


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",") if part]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1,2") from error
    if any(not 1 <= count <= 64 for count in counts):
        raise argparse.ArgumentTypeError("from 1 to 64 workers")
    return counts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="ours alone, one round; records nothing")
    add("--peers", type=_peers, help=f"of {','.join(PEERS)} (all of them)")
    add("--rounds", type=int, help="per gateway and kind of request (3)")
    add("--seconds", type=float, default=4.0, help="of one round (4)")
    add(
        "--latency",
        action=argparse.BooleanOptionalAction,
        help="added latency (left out of --quick)",
    )
    add("--workers", type=_counts, nargs="?", const=[1, 2], help="as in 1,2 (not with --quick)")
    add("--idle", type=int, nargs="?", const=idle.STREAMS, help="5000 (0 with --quick)")
    add("--no-install", action="store_true", help="leave out peers that are not installed")
    add("--peers-dir", type=Path, default=Path(".peers"), help="environments of the peers")
    add("--json", action="store_true", help="the result as data on standard output")
    add("--out", type=Path, help="results file, appended (benchmarks/results/gateway-DATE.jsonl)")
    arguments = parser.parse_args()
    arguments.peers_dir = arguments.peers_dir.resolve()
    if arguments.peers is None:
        arguments.peers = [] if arguments.quick else list(PEERS)
    if arguments.latency is None:
        arguments.latency = not arguments.quick
    if arguments.workers is None:
        arguments.workers = [] if arguments.quick else [1, 2]
    if arguments.idle is None:
        arguments.idle = 0 if arguments.quick else idle.STREAMS
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 3)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
