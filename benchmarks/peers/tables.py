"""The figures on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from peers.catalogue import CLASSES, OURS
from peers.report import Bar, Row, Spread


def show(
    console: Console,
    rows: Sequence[Row],
    bars: Sequence[Bar],
    bandwidth: dict[str, float],
    run: dict[str, Any],
) -> None:
    """Everything that was measured, and what was not with its reason."""
    console.print(
        f"\n{run['cpu']}, {run['cores']} cores, {run['threads']} threads; memory "
        f"{bandwidth['read_gb_s']:.1f} GB/s read, {bandwidth['triad_gb_s']:.1f} GB/s triad; "
        f"1-minute load {run['load_1min'][0]} to {run['load_1min'][1]}"
    )
    if run["busy"]:
        console.print(
            f"[red]The machine was busy with other work ({run['busy']} of the cells began above "
            f"a load of {run['cores'] + 1}): do not quote these figures.[/red]"
        )
    console.print(_bare(rows))
    if any(row.served for row in rows):
        console.print(_served(rows))
    if bars:
        console.print(_bars(bars))
    for row in rows:
        for kind, reason in row.errors.items():
            console.print(f"[dim]not measured: {row.name} ({kind}): {reason}", highlight=False)


def words(spread: Spread | None, digits: int = 0) -> str:
    """`median (low-high)`; only the median of one round."""
    if spread is None:
        return ""
    middle = f"{spread.median:.{digits}f}"
    if spread.rounds < 2:
        return middle
    return f"{middle} ({spread.low:.{digits}f}-{spread.high:.{digits}f})"


def _table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < left else "right")
    return table


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """By class, fastest first."""
    return sorted(
        rows,
        key=lambda row: (
            CLASSES.index(row.precision),
            -(row.decode.median if row.decode else 0.0),
        ),
    )


def _style(row: Row) -> str:
    return "bold" if row.peer == OURS else ""


def _bare(rows: Sequence[Row]) -> Table:
    columns = ["engine", "class", "prefill tok/s", "decode tok/s", "bound", "of bound"]
    columns += ["peak MB", "load s", "same tokens"]
    table = _table("One stream", columns, left=2)
    for row in _ordered([row for row in rows if row.decode]):
        table.add_row(
            row.name,
            row.precision,
            words(row.prefill),
            words(row.decode),
            f"{row.bound:.0f}" if row.bound else "",
            f"{row.fraction:.0%}" if row.bound else "",
            str(row.peak_mb),
            f"{row.load_s:.1f}",
            "" if row.same_tokens is None else str(row.same_tokens),
            style=_style(row),
        )
    return table


def _served(rows: Sequence[Row]) -> Table:
    columns = ["engine", "class", "at once", "output tok/s", "in+out tok/s"]
    columns += ["TTFT p50 ms", "TTFT p99 ms", "requests", "peak MB"]
    table = _table("Served over HTTP, mixed lengths", columns, left=2)
    for row in _ordered([row for row in rows if row.served]):
        for concurrency, one in row.served.items():
            table.add_row(
                row.name,
                row.precision,
                str(concurrency),
                words(one.tokens_per_s),
                words(one.total_tokens_per_s),
                f"{one.ttft_p50_ms:.0f}",
                f"{one.ttft_p99_ms:.0f}",
                str(one.requests),
                str(row.served_peak_mb),
                style=_style(row),
            )
    return table


def _bars(bars: Sequence[Bar]) -> Table:
    columns = ["what", "ours", "best peer", "ratio", "bar", ""]
    table = _table("Ratios in this run (more is better)", columns, left=3)
    for bar in bars:
        verdict = "" if not bar.required else "met" if bar.met else "[red]missed"
        required = f"{bar.required:.2f}" if bar.required else ""
        table.add_row(bar.what, bar.ours, bar.peer, words(bar.ratio, 2), required, verdict)
    return table
