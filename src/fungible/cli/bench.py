"""`fungible bench`: replay traffic shapes."""

import asyncio
from pathlib import Path

import click
import msgspec

from fungible.bench.arrivals import burstiness, offsets
from fungible.bench.compare import Comparison, compare
from fungible.bench.metrics import percentile
from fungible.bench.runner import BenchResult, replay, saturate
from fungible.bench.trace import load_trace
from fungible.cli.dispatching import dispatching, resolve_model
from fungible.cli.options import common_options, locate_config
from fungible.cli.tables import print_json, print_table
from fungible.contract.ids import new_id
from fungible.quickstart.progress import Stages
from fungible.routing.dispatch import Dispatcher

_trace = click.option(
    "--trace", "trace_name", default="everyday", show_default=True, help="Bundled name or a path."
)
_model = click.option(
    "--model", default="", help="As applications know it; default: the only route."
)


@click.group()
def bench() -> None:
    """Replay traffic shapes."""


@bench.command()
@_trace
@click.option("--json", "as_json", is_flag=True, help="Print the result as data.")
def show(*, trace_name: str, as_json: bool) -> None:
    """What shape a trace has. Sends nothing."""
    trace = load_trace(trace_name)
    due = offsets(trace)
    into = [float(row.input_length) for row in trace.rows]
    out = [float(row.output_length) for row in trace.rows]
    blocks = [block for row in trace.rows for block in row.hash_ids]
    shape = {
        "trace": trace.name,
        "trace_hash": trace.trace_hash,
        "requests": len(trace.rows),
        "seconds": due[-1],
        "burstiness": burstiness(due),
        "input_p50": percentile(into, 50),
        "input_p99": percentile(into, 99),
        "output_p50": percentile(out, 50),
        "output_p99": percentile(out, 99),
        "reused_prefix_blocks": 1 - len(set(blocks)) / len(blocks) if blocks else 0.0,
        "sessions": len({row.session_id for row in trace.rows if row.session_id}),
    }
    if as_json:
        print_json(shape)
        return
    rows = [(k, f"{v:.3g}" if isinstance(v, float) else str(v)) for k, v in shape.items()]
    print_table(("measure", "value"), rows)


@bench.command("replay")
@_trace
@common_options
@_model
@click.option("--backend", required=True, help="The backend to replay against.")
@click.option("--speed", type=float, default=1.0, show_default=True, help="2 sends twice as fast.")
@click.option(
    "--saturate",
    "concurrency",
    type=click.IntRange(1, 256),
    help="Ignore the times; keep this many requests in flight.",
)
@click.pass_context
def replay_command(
    context: click.Context,
    *,
    trace_name: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
    model: str,
    backend: str,
    speed: float,
    concurrency: int | None,
) -> None:
    """Replay a trace at its own times; latency counts from when a request was due.

    Exit code 3 when the run is not valid.
    """
    trace = load_trace(trace_name)
    offsets(trace, speed)
    with dispatching(locate_config(home, config_path), "bench") as setting:
        model, _ = resolve_model(setting.config, model, backend, [backend])

        async def work(dispatcher: Dispatcher) -> BenchResult:
            with Stages().stage(f"replaying {trace.name} against {backend}") as stage:
                run_id = new_id("run_")
                if concurrency is None:
                    return await replay(
                        dispatcher,
                        trace,
                        backend,
                        model=model,
                        run_id=run_id,
                        speed=speed,
                        progress=stage.update,
                    )
                return await saturate(
                    dispatcher,
                    trace,
                    backend,
                    concurrency=concurrency,
                    model=model,
                    run_id=run_id,
                    progress=stage.update,
                )

        result = asyncio.run(setting.use(work))
    _show(result, as_json)
    context.exit(0 if result.valid else 3)


@bench.command("compare")
@_trace
@common_options
@_model
@click.argument("a")
@click.argument("b")
@click.option("--blocks", type=click.IntRange(2, 13), default=4, show_default=True)
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True)
def compare_command(
    *,
    trace_name: str,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
    model: str,
    a: str,
    b: str,
    blocks: int,
    concurrency: int,
) -> None:
    """Throughput of backend B over backend A, in interleaved blocks, with an interval."""
    trace = load_trace(trace_name)
    with dispatching(locate_config(home, config_path), "bench") as setting:
        model, _ = resolve_model(setting.config, model, a, [a, b])

        async def work(dispatcher: Dispatcher) -> Comparison:
            with Stages().stage(f"{a} and {b} by turns") as stage:
                return await compare(
                    dispatcher,
                    trace,
                    a,
                    b,
                    model=model,
                    run_id=new_id("run_"),
                    blocks=blocks,
                    concurrency=concurrency,
                    progress=stage.update,
                )

        result = asyncio.run(setting.use(work))
    if as_json:
        print_json(msgspec.to_builtins(result))
        return
    click.echo(f"{a}: {result.a_tokens_per_s:.1f} output tokens/s")
    click.echo(f"{b}: {result.b_tokens_per_s:.1f} output tokens/s")
    ratio = result.ratio
    click.echo(
        f"{b} / {a}: {ratio.value:.2f} (95 % between {ratio.low:.2f} and {ratio.high:.2f}, "
        f"{blocks} blocks)"
    )


def _show(result: BenchResult, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(result))
        return
    summary = result.summary
    click.echo(f"{result.scenario} of {result.trace} against {result.backend}")
    for reason in result.invalid:
        click.echo(f"  not valid: {reason}")
    rows = [
        ("requests", f"{summary.requests}, {summary.failed} failed"),
        ("output tokens/s", f"{summary.tokens_per_s:.1f}"),
        ("all tokens/s", f"{summary.total_tokens_per_s:.1f}"),
        ("wall time", f"{summary.wall_s:.1f} s"),
    ]
    if result.scenario == "replay":
        supported = summary.supported_percentile
        limit = "" if supported >= 99 else f" (so few requests support p{supported:g} at most)"
        rows += [
            ("first token p50", f"{summary.ttft_p50_ms:.0f} ms"),
            ("first token p99", f"{summary.ttft_p99_ms:.0f} ms{limit}"),
            ("between tokens p50", f"{summary.itl_p50_ms:.1f} ms"),
            ("sent late p99", f"{summary.send_lag_p99_ms:.1f} ms"),
        ]
    print_table(("measure", "value"), rows)
