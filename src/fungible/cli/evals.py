"""`fungible eval`: run suites and decide verdicts."""

import asyncio
import time
from pathlib import Path

import click
import msgspec

from fungible.cli.dispatching import dispatching, resolve_model
from fungible.cli.options import common_options, locate_config
from fungible.cli.tables import print_json, print_table
from fungible.contract.events import VerdictEvent
from fungible.contract.ids import new_id
from fungible.errors import InputError
from fungible.evals.gate import decide
from fungible.evals.plan import Plan, foresee, plan_for
from fungible.evals.results import ItemResult, read_results, write_results
from fungible.evals.runner import run_suite
from fungible.evals.suite import Suite, load_suite
from fungible.quickstart.progress import Stages
from fungible.routing.dispatch import Dispatcher

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3, "refused": 3}
_HEADLINES = ("flips", "changed", "kl_mean", "kl_p99", "same_top1", "length_ratio", "truncated")

_margin = click.option(
    "--margin",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Largest loss that still counts as held.",
)
_suite = click.option(
    "--suite", "suite_name", default="everyday", show_default=True, help="Bundled name or a path."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as data.")


@click.group()
def evals() -> None:
    """Run suites and decide verdicts."""


@evals.command()
@_suite
@_margin
@_json
def plan(*, suite_name: str, margin: float, as_json: bool) -> None:
    """What a run would judge and could see. Sends nothing."""
    planned = plan_for(load_suite(suite_name), margin=margin)
    ahead = foresee(planned)
    if as_json:
        print_json(
            {"plan_hash": planned.plan_hash()} | msgspec.to_builtins(planned) | {"foresight": ahead}
        )
        return
    click.echo(f"suite {planned.suite} ({planned.suite_hash}), {planned.items} items")
    click.echo(f"plan {planned.plan_hash()}, margin {100 * margin:.1f} points")
    rows = [
        (f"{one.discordance:.0%}", str(one.items_needed), f"{100 * one.detectable_loss:.1f} points")
        for one in ahead
    ]
    columns = ("if so many scores change", "items to pass an equal one", "loss it would notice")
    print_table(columns, rows, right=columns)
    limits = [(name, f"{value:g}") for name, value in _limits(planned).items()]
    print_table(("limit", "value"), limits, right=("value",))


@evals.command()
@_suite
@_margin
@common_options
@click.option("--model", default="", help="As applications know it; default: the only route.")
@click.option("--backend", "candidate", required=True, help="The backend under test.")
@click.option("--reference", default="", help="Default: the route's reference.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the items' results here, for `eval gate`.",
)
@click.pass_context
def run(
    context: click.Context,
    *,
    suite_name: str,
    margin: float,
    home: Path | None,
    config_path: Path | None,
    as_json: bool,
    model: str,
    candidate: str,
    reference: str,
    concurrency: int,
    save: Path | None,
) -> None:
    """Put a suite to a candidate and (twice) to its reference, and decide.

    The verdict is recorded; `fungible migrate` looks for it. Exit code 0 for `pass`, 1 for
    `fail`, 3 for `inconclusive` or `refused`.
    """
    suite = load_suite(suite_name)
    located = locate_config(home, config_path)
    with dispatching(located, "eval") as setting:
        model, reference = resolve_model(setting.config, model, reference, [candidate])
        if candidate == reference:
            raise InputError(f"backend {candidate!r} is the reference itself; nothing to compare")
        names = {"reference": reference, "again": reference, "candidate": candidate}
        answers = asyncio.run(setting.use(_Answers(suite, names, model, concurrency).collect))
        verdict = decide(
            plan_for(suite, margin=margin),
            model=model,
            candidate=candidate,
            reference=reference,
            bindings=setting.config.bindings(),
            reference_results=answers["reference"],
            reference_again=answers["again"],
            candidate_results=answers["candidate"],
            now_ns=time.time_ns(),
        )
        setting.spool.write(verdict)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for role, results in answers.items():
            write_results(save / f"{role}.jsonl", results)
    _show(verdict, as_json)
    context.exit(EXIT_CODES[verdict.outcome])


@evals.command()
@click.argument("reference", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("candidate", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--again", type=click.Path(path_type=Path, dir_okay=False), help="REFERENCE, twice.")
@_margin
@_json
@click.pass_context
def gate(
    context: click.Context,
    *,
    reference: Path,
    candidate: Path,
    again: Path | None,
    margin: float,
    as_json: bool,
) -> None:
    """Decide from two files of per-item results, by any harness; needs no server.

    One JSON object per line: `item_id` and `score` in [0, 1], and where there are any
    `cluster_id`, `output_hash`, `tokens`, `finish_reason`, `logprobs`. Nothing is recorded.
    """
    ours, theirs = read_results(reference), read_results(candidate)
    planned = Plan(
        suite=reference.stem,
        suite_hash="",
        items=len(ours),
        margin=margin,
        need_logprobs=any(result.tokens for result in (*ours, *theirs)),
    )
    verdict = decide(
        planned,
        model="",
        candidate=str(candidate),
        reference=str(reference),
        bindings={str(candidate): "", str(reference): ""},
        reference_results=ours,
        reference_again=read_results(again) if again else None,
        candidate_results=theirs,
        now_ns=time.time_ns(),
    )
    _show(verdict, as_json)
    context.exit(EXIT_CODES[verdict.outcome])


class _Answers:
    """Runs of one suite by the role that each backend plays."""

    def __init__(self, suite: Suite, names: dict[str, str], model: str, concurrency: int) -> None:
        self._suite = suite
        self._names = names
        self._model = model
        self._concurrency = concurrency

    async def collect(self, dispatcher: Dispatcher) -> dict[str, list[ItemResult]]:
        """Results by role; the reference comes first and again before the candidate."""
        stages = Stages()
        answers = {}
        for role, name in self._names.items():
            with stages.stage(f"{role}: {name}") as stage:
                answers[role] = await run_suite(
                    dispatcher,
                    self._suite,
                    name,
                    model=self._model,
                    run_id=new_id("run_"),
                    concurrency=self._concurrency,
                    progress=stage.update,
                )
                stage.note(_note(answers[role]))
        return answers


def _note(results: list[ItemResult]) -> str:
    scores = [result.score for result in results if result.score is not None]
    failed = len(results) - len(scores)
    note = f"{sum(scores):g} of {len(scores)} right"
    if not failed:
        return note
    first = next(result.error for result in results if result.score is None)
    return f"{note}, {failed} failed, the first with: {first}"


def _limits(planned: Plan) -> dict[str, float]:
    kept = ("max_", "length_", "floor", "ceiling", "alpha", "min_items", "valid_days")
    values = msgspec.structs.asdict(planned)
    return {name: value for name, value in values.items() if name.startswith(kept)}


def _show(verdict: VerdictEvent, as_json: bool) -> None:
    if as_json:
        print_json(verdict)
        return
    click.echo(f"{verdict.outcome}: {verdict.candidate} against {verdict.reference}")
    for reason in verdict.reasons:
        click.echo(f"  {reason}")
    rows = [
        ("items", str(verdict.items)),
        ("reference score", f"{verdict.reference_score:.1%}"),
        ("candidate score", f"{verdict.candidate_score:.1%}"),
        ("loss, upper bound", f"{100 * verdict.loss_upper:.1f} points"),
        ("margin", f"{100 * verdict.margin:.1f} points"),
    ]
    for name in _HEADLINES:
        if name in verdict.metrics:
            twice = verdict.metrics.get(f"{name}_aa")
            floor = f" (reference twice: {twice:.4g})" if twice is not None else ""
            rows.append((name, f"{verdict.metrics[name]:.4g}{floor}"))
    print_table(("measure", "value"), rows)
    if verdict.binding:
        click.echo(f"verdict {verdict.verdict_id} for binding {verdict.binding}")
