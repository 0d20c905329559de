"""Command lines that depend on settings and dates: tasks are made from them when a run begins."""

from datetime import date, datetime, timedelta
from pathlib import Path

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from fungible_tasks.settings import names, setting

Line = tuple[str, ...]


def night(context: Context) -> date:
    """The day (UTC) that a run is about: its logical date's, else that on which it was started."""
    when = context.get("logical_date") or context["dag_run"].run_after
    return when.date()


def eval_arguments(day: date) -> list[Line]:
    """`eval run` for each candidate; its results are kept below the day's folder."""
    backends = names("EVAL_BACKENDS")
    if not backends:
        raise AirflowSkipException("no candidate: FUNGIBLE_EVAL_BACKENDS is empty")
    root = setting("EVAL_RESULTS")
    shared = ("eval", "run", "--suite", setting("EVAL_SUITE"), *_model("EVAL_MODEL"))
    return [
        (*shared, "--backend", name, *(("--save", str(Path(root, str(day), name))) if root else ()))
        for name in backends
    ]


def drift_arguments(day: date) -> list[Line]:
    """`eval gate` of each candidate's answers on one day against those of the day before."""
    before = day - timedelta(days=1)
    root = setting("EVAL_RESULTS")
    lines = []
    for name in names("EVAL_BACKENDS") if root else []:
        old, new = (Path(root, str(when), name, "candidate.jsonl") for when in (before, day))
        if old.is_file() and new.is_file():
            lines.append(("eval", "gate", str(old), str(new)))
    if not lines:
        raise AirflowSkipException("no results of two nights")
    return lines


def replay_arguments() -> list[Line]:
    """`bench replay` of the trace against each backend."""
    trace = ("--trace", setting("BENCH_TRACE"), *_model("BENCH_MODEL"))
    return [("bench", "replay", *trace, "--backend", name) for name in _benched()]


def compare_arguments() -> list[Line]:
    """`bench compare` of each further backend with the first."""
    first, *others = _benched()
    if not others:
        raise AirflowSkipException("nothing to compare: FUNGIBLE_BENCH_BACKENDS names one backend")
    trace = ("--trace", setting("BENCH_TRACE"), *_model("BENCH_MODEL"))
    return [("bench", "compare", *trace, first, other) for other in others]


def closing_month(asked: str | None, now: datetime) -> str:
    """The month to reconcile: the one asked for, else the last full one before `now`.

    Raises:
        AirflowFailException: It is no month.
    """
    if not asked:
        return f"{now.replace(day=1) - timedelta(days=1):%Y-%m}"
    try:
        return f"{date.fromisoformat(f'{asked}-01'):%Y-%m}"
    except ValueError as error:
        raise AirflowFailException(f"month {asked!r} is not YYYY-MM") from error


def _benched() -> list[str]:
    backends = names("BENCH_BACKENDS")
    if not backends:
        raise AirflowSkipException("no backend: FUNGIBLE_BENCH_BACKENDS is empty")
    return backends


def _model(name: str) -> Line:
    model = setting(name)
    return ("--model", model) if model else ()
