"""Speed and money: what each backend did, read back from the ledger's own rows."""

import asyncio
import time
from decimal import Decimal

import msgspec

from fungible.bench.runner import replay, saturate
from fungible.bench.trace import Trace
from fungible.contract.events import VerdictEvent
from fungible.contract.ids import new_id
from fungible.errors import UnavailableError
from fungible.ledger.queries import NetCostRow, net_cost
from fungible.ledger.sheets import load_book
from fungible.quickstart.evaluate import CONCURRENCY, Bench
from fungible.quickstart.progress import Stage
from fungible.quickstart.setup import ENTRIES, MODEL, REFERENCE
from fungible.quickstart.summary import BackendRow, sticker, verdict_word

REPLAY_SPEED = 2.0
SETTLE_S = 30.0


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Latency from an open-loop replay (ms), throughput with all slots busy (tokens/s)."""

    ttft_p50_ms: float
    ttft_p99_ms: float
    tokens_per_s: float
    notes: list[str]


async def measure_speed(bench: Bench, trace: Trace, backend: str, stage: Stage) -> Speed:
    """Replay the trace, then run it with every slot busy."""
    open_loop = await replay(
        bench.dispatcher,
        trace,
        backend,
        model=MODEL,
        run_id=new_id("run_"),
        speed=REPLAY_SPEED,
        progress=stage.update,
    )
    full = await saturate(
        bench.dispatcher,
        trace,
        backend,
        concurrency=CONCURRENCY,
        model=MODEL,
        run_id=new_id("run_"),
        progress=stage.update,
    )
    return Speed(
        ttft_p50_ms=round(open_loop.summary.ttft_p50_ms, 1),
        ttft_p99_ms=round(open_loop.summary.ttft_p99_ms, 1),
        tokens_per_s=round(full.summary.total_tokens_per_s, 1),
        notes=[
            *(f"{backend}: {why}" for why in open_loop.invalid + full.invalid),
            f"TTFT p99 of {open_loop.summary.requests} requests is their maximum; so many "
            f"support p{open_loop.summary.supported_percentile:g}",
        ],
    )


async def settled_costs(bench: Bench) -> dict[str, NetCostRow]:
    """Net cost per accepted answer by backend, once every eval attempt has a price.

    Raises:
        UnavailableError: Control did not ship and price the rows in time.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        rows = await asyncio.to_thread(_net_costs, bench)
        missing = [entry.name for entry in ENTRIES if not _complete(rows.get(entry.name))]
        if not missing:
            return rows
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"the ledger has no complete cost for {', '.join(missing)}",
                hint="see logs/control.log in the home directory",
            )
        await asyncio.sleep(0.5)


def _complete(row: NetCostRow | None) -> bool:
    return row is not None and row.net_cost is not None


def _net_costs(bench: Bench) -> dict[str, NetCostRow]:
    bindings = list(bench.config.bindings().values())
    runs = bench.access.query(
        "SELECT DISTINCT run_id FROM attempts "
        "WHERE kind = 'eval' AND has({bindings:Array(String)}, binding)",
        {"bindings": bindings},
    )
    return {row.backend: row for row in net_cost(bench.access, [str(run[0]) for run in runs.rows])}


def backend_rows(
    bench: Bench,
    verdicts: dict[str, VerdictEvent],
    speeds: dict[str, Speed],
    costs: dict[str, NetCostRow],
) -> list[BackendRow]:
    """One row per backend, the reference first."""
    book = load_book(bench.config)
    rows = []
    for entry in ENTRIES:
        verdict, speed = verdicts.get(entry.name), speeds[entry.name]
        now = time.time_ns()
        prices = [row.price for row in book.hourly(entry.name) if row.covers(now)]
        net = costs[entry.name].net_cost
        judged = verdict or next(iter(verdicts.values()))
        score = judged.candidate_score if verdict else judged.reference_score
        rows.append(
            BackendRow(
                name=entry.name,
                target=entry.target,
                variant=entry.variant,
                verdict=verdict_word(verdict),
                ttft_p50_ms=speed.ttft_p50_ms,
                ttft_p99_ms=speed.ttft_p99_ms,
                tokens_per_s=speed.tokens_per_s,
                sticker_usd_per_mtok=sticker(prices[0], speed.tokens_per_s) if prices else "",
                net_usd_per_accepted=str((net or Decimal(0)).quantize(Decimal("1e-12"))),
                score=round(score, 4),
                loss_upper=round(verdict.loss_upper, 4) if verdict else None,
                reasons=verdict.reasons if verdict else [],
            )
        )
    assert rows[0].name == REFERENCE  # noqa: S101  # the order of ENTRIES
    return rows
