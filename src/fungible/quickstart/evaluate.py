"""Judges every candidate against the reference, reusing verdicts that still hold."""

import time

import msgspec

from fungible.config import Config
from fungible.contract.events import VerdictEvent
from fungible.contract.ids import new_id
from fungible.evals.gate import decide
from fungible.evals.plan import Plan
from fungible.evals.results import ItemResult
from fungible.evals.runner import run_suite
from fungible.evals.suite import Suite
from fungible.ledger.access import Access
from fungible.ledger.spool import SpoolWriter
from fungible.quickstart.progress import Stages
from fungible.quickstart.setup import MODEL, REFERENCE
from fungible.routing.dispatch import Dispatcher

CONCURRENCY = 8


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What judging and measuring need: who may serve, the way to send, and where rows go."""

    config: Config
    dispatcher: Dispatcher
    spool: SpoolWriter
    access: Access


def standing_verdicts(config: Config, access: Access, plan: Plan) -> dict[str, VerdictEvent]:
    """Unexpired verdicts of this very plan on these very bindings, by candidate."""
    rows = access.query(
        "SELECT * FROM verdicts WHERE model = {model:String} AND plan_hash = {plan:String} "
        "AND expires_ns > {now:Int64} ORDER BY decided_ns",
        {"model": MODEL, "plan": plan.plan_hash(), "now": time.time_ns()},
    )
    bindings = config.bindings()
    verdicts = [msgspec.convert(row, VerdictEvent, strict=False) for row in rows.dicts()]
    return {
        verdict.candidate: verdict
        for verdict in verdicts
        if verdict.binding == bindings.get(verdict.candidate)
        and verdict.reference_binding == bindings.get(verdict.reference)
    }


async def judge(
    bench: Bench,
    suite: Suite,
    plan: Plan,
    candidates: list[str],
    stages: Stages,
) -> dict[str, VerdictEvent]:
    """A verdict on each candidate, from one run each and two of the reference (the A/A floor)."""
    if not candidates:
        return {}

    async def answers(backend: str, title: str) -> list[ItemResult]:
        with stages.stage(title) as stage:
            results = await run_suite(
                bench.dispatcher,
                suite,
                backend,
                model=MODEL,
                run_id=new_id("run_"),
                concurrency=CONCURRENCY,
                progress=stage.update,
            )
            right = sum(result.score or 0.0 for result in results)
            stage.note(f"{right:.0f} of {len(results)} right")
        return results

    reference = await answers(REFERENCE, f"Answering the suite: {REFERENCE} (reference)")
    again = await answers(REFERENCE, f"Answering it again: {REFERENCE} (the A/A floor)")
    verdicts = {}
    for candidate in candidates:
        results = await answers(candidate, f"Answering the suite: {candidate}")
        verdicts[candidate] = decide(
            plan,
            model=MODEL,
            candidate=candidate,
            reference=REFERENCE,
            bindings=bench.config.bindings(),
            reference_results=reference,
            reference_again=again,
            candidate_results=results,
            now_ns=time.time_ns(),
        )
        await bench.spool.commit(verdicts[candidate])
    return verdicts
