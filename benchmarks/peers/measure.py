"""One cell: an engine alone with one stream, or its server under several loads."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers import load
from peers.catalogue import PEERS, Engine
from peers.children import Driver, DriverError
from peers.machine import load_1min

DRIVERS = Path(__file__).parent / "drivers"
SLOTS = 32


@dataclass(frozen=True)
class Plan:
    """How much is measured in a cell.

    Attributes:
        threads: CPU threads of every engine.
        prompts: Token ids; the first warms up, each of the others is one repeat.
        tokens: Greedy tokens per repeat.
        requests: Concurrent requests -> requests in all.
        patience: Seconds that an engine may be silent.
        context: Tokens that a request may hold.
    """

    threads: int
    prompts: list[list[int]]
    tokens: int
    requests: dict[int, int]
    patience: float
    context: int = 512


@dataclass
class Cell:
    """What one engine did in one round; `error` says why figures are missing.

    Attributes:
        kind: `bare` (one stream, no server) or `served` (over HTTP).
        prefill: Prompt tokens per second, one per repeat.
        decode: Tokens per second after the first, one per repeat.
        loads: Concurrency -> figures of `fungible.bench.metrics.Summary` and `ttft_ms`.
        peak_pss: Bytes, the whole process tree.
        load_1min: When the cell began.
        tokens: Of the first repeat, where the library tells them.
    """

    engine: str
    kind: str
    round: int
    load_1min: float
    load_s: float = 0.0
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    loads: dict[int, dict[str, Any]] = field(default_factory=dict)
    peak_pss: int = 0
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    error: str = ""

    def record(self) -> dict[str, Any]:
        """As data for a results file."""
        return {"cell": asdict(self)}


def measure(
    engine: Engine, kind: str, number: int, python: Path, model: Path, plan: Plan, logs: Path
) -> Cell:
    """Start the engine's driver, let it work, end it; a failure is a cell with an error."""
    cell = Cell(engine.name, kind, number, load_1min())
    job = {
        "mode": "serve" if kind == "served" else "bare",
        "model": str(model),
        "threads": plan.threads,
        "slots": SLOTS,
        "context": plan.context,
        "prompts": plan.prompts,
        "tokens": plan.tokens,
        **engine.options,
    }
    log = logs / f"{engine.name.replace(' ', '-')}-{kind}.log"
    began = time.monotonic()
    try:
        with Driver(python, DRIVERS / PEERS[engine.peer].driver, job, log) as driver:
            try:
                _follow(driver, cell, plan)
            finally:
                cell.peak_pss = driver.peak_pss
    except DriverError as error:
        cell.error = str(error)
    except OSError as error:
        cell.error = f"cannot start: {error}"
    cell.seconds = round(time.monotonic() - began, 1)
    return cell


def _follow(driver: Driver, cell: Cell, plan: Plan) -> None:
    for event in driver.events(plan.patience):
        if event["event"] == "loaded":
            cell.load_s, cell.versions = round(event["seconds"], 2), event["versions"]
        elif event["event"] == "generated":
            cell.prefill.append(event["prompt"] / event["prefill_s"])
            cell.decode.append((event["count"] - 1) / event["decode_s"])
            cell.tokens = cell.tokens or event["tokens"]
        elif event["event"] == "serving":
            _load(cell, event["url"], event["model"], plan.requests)
            return


def _load(cell: Cell, url: str, model: str, requests: dict[int, int]) -> None:
    """Every concurrency, each warmed up once: some engines compile for a batch's size."""
    for concurrency, count in requests.items():
        seed = f"round {cell.round} with {concurrency}"
        load.measure(url, model, load.mix(f"warm {seed}", concurrency, answer=6), concurrency)
        summary, firsts, why = load.measure(url, model, load.mix(seed, count), concurrency)
        if summary.failed:
            raise DriverError(f"{summary.failed} of {summary.requests} requests failed: {why}")
        cell.loads[concurrency] = {
            "tokens_per_s": summary.tokens_per_s,
            "total_tokens_per_s": summary.total_tokens_per_s,
            "itl_p50_ms": summary.itl_p50_ms,
            "requests": summary.requests,
            "wall_s": summary.wall_s,
            "ttft_ms": firsts,
        }


def prompts(encode: Any, length: int, count: int) -> list[list[int]]:  # noqa: ANN401
    """`count` prompts of `length` tokens of plain text, different from the first token on.

    Args:
        encode: Text to token ids.
        length: Tokens of each prompt.
        count: How many prompts.
    """
    rows: Sequence[load.Request] = load.mix("prompt", 4 * count)
    found = []
    for at in range(count):
        text = " ".join(f"{row.text}." for row in [*rows[at:], *rows[:at]])
        found.append(encode(f"{at} {text}")[:length])
    if any(len(one) < length for one in found):
        raise ValueError(f"the built-in text is shorter than {length} tokens")
    return found
