"""What each gateway does when a model server misbehaves.

    uv run python benchmarks/faults/compare.py [--peers litellm,portkey]

Every fault is shown to every gateway; the table says what the client saw, and for ours what the
ledger's row says. `direct` is the model server without a gateway. Method and words:
docs/concepts/failure-semantics.md.
"""

import argparse
import contextlib
import datetime as dt
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Run as a file, its own folder comes first, not the one where the packages are.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from faults import gateways
from faults.catalogue import FAULTS, words
from faults.client import ask, judge
from faults.rows import rows_of
from gateway.processes import StartError
from peers import machine
from peers.catalogue import OURS
from peers.environments import NotInstalledError

HERE = Path(__file__).resolve().parents[1]


def shown(place: gateways.Place, name: str) -> dict[str, Any]:
    """One fault shown to one gateway."""
    fault = FAULTS[name]
    seen = ask(place.url, name, stream=fault.stream, headers=place.headers)
    verdict = judge(seen, fault, words(name))
    found: dict[str, Any] = {
        "verdict": verdict,
        "status": seen.status,
        "right": verdict in (fault.right, fault.or_right),
    }
    if place.spool is not None:
        rows = rows_of(place.spool, model=name)
        if rows:
            row = rows[-1]
            found["row"] = {
                "status": row.status,
                "error_code": row.error_code,
                "usage_source": row.usage_source,
                "out_visible": row.out_visible,
            }
    return found


def measure(place: gateways.Place) -> dict[str, Any]:
    """Every fault, a few at once."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: shown(place, name), FAULTS))
    faults = dict(zip(FAULTS, found, strict=True))
    for name, one in faults.items():
        # A gateway that fails without a fault as well shows nothing by failing with one.
        control = "none" if FAULTS[name].stream else "none-whole"
        one["judged"] = name == control or faults[control]["right"]
    judged = [one for one in found if one["judged"]]
    return {
        "version": place.version,
        "right": sum(one["right"] for one in judged),
        "of": len(judged),
        "faults": faults,
    }


@contextlib.contextmanager
def serving(name: str, url: str, home: Path, arguments: argparse.Namespace) -> Iterator[Any]:
    """The gateway of that name; `direct` is none."""
    if name == "direct":
        yield gateways.Place("direct", "", f"{url}/chat/completions", {}, None)  # type: ignore[arg-type]
    elif name == OURS:
        with gateways.fungible(url, home) as place:
            yield place
    else:
        start = gateways.PEERS[name]
        with start(url, home, arguments.peers_dir, not arguments.no_install) as place:
            yield place


def main() -> int:
    """Exit status: 0 when ours did everything right, else 1."""
    arguments = _arguments()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        home = Path(folder)
        with gateways.upstream(home) as url:
            for name in ("direct", OURS, *arguments.peers):
                print(f"asking {name}", file=sys.stderr, flush=True)
                try:
                    with serving(name, url, home / name, arguments) as place:
                        time.sleep(0.5)
                        results[name] = measure(place)
                except (StartError, NotInstalledError) as error:
                    results[name] = {"failed": str(error)}
    results["run"] = machine.facts() | {"load_1min": machine.load_1min()}
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        show(Console(width=None if sys.stdout.isatty() else 160), results)
    if arguments.out is not None:
        with arguments.out.open("a") as file:
            file.write(json.dumps(results, ensure_ascii=False) + "\n")
        print(arguments.out, file=sys.stderr)
    ours = results[OURS]
    return 0 if ours.get("right") == ours.get("of") and "of" in ours else 1


def show(console: Console, results: dict[str, Any]) -> None:
    """One row a fault."""
    names = [name for name in results if name != "run"]
    table = Table(title="What the client saw")
    for head in ("fault", "the server …", "right", *names, "our row"):
        table.add_column(head)
    for fault, about in FAULTS.items():
        cells = []
        for name in names:
            one = results[name].get("faults", {}).get(fault)
            if one is None:
                cells.append("–")
                continue
            colour = "green" if one["right"] else "red"
            colour = colour if one["judged"] else "dim strike"
            cells.append(f"[{colour}]{one['verdict']} {one['status'] or ''}[/]")
        row = results[OURS].get("faults", {}).get(fault, {}).get("row")
        words = f"{row['status']} {row['error_code']} {row['usage_source']}" if row else ""
        table.add_row(fault, about.says.replace("[", r"\["), about.right, *cells, words)
    totals = [
        f"{one['right']} of {one['of']}" if "of" in one else "not run"
        for one in (results[name] for name in names)
    ]
    table.add_section()
    table.add_row("right", "", "", *totals, "")
    console.print(table)
    for name in names:
        if "failed" in results[name]:
            console.print(f"{name}: {results[name]['failed']}", markup=False)


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in gateways.PEERS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {list(gateways.PEERS)}")
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--peers", type=_peers, default=list(gateways.PEERS), help="of litellm,portkey (both)")
    add("--no-install", action="store_true", help="leave out peers that are not installed")
    add("--peers-dir", type=Path, default=Path(".peers"), help="environments of the peers")
    add("--json", action="store_true", help="the result as data on standard output")
    default = HERE / "results" / f"faults-{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}.jsonl"
    add("--out", type=Path, default=default, help="results file, appended")
    arguments = parser.parse_args()
    arguments.peers_dir = arguments.peers_dir.resolve()
    return arguments


if __name__ == "__main__":
    sys.exit(main())
