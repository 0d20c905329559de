"""What the figures are held to, and how they are shown."""

import math
from html import escape
from typing import Any

from rich.console import Console
from rich.table import Table

from peers.catalogue import OURS

REQUEST, CHUNK = "cpu_us_per_request", "cpu_us_per_chunk"
# Of ours alone: at most, and what is aimed at behind it.
_CAPS = ((REQUEST, 150.0, 50.0), (CHUNK, 12.0, 5.0))
# How many times less than a peer.
_RATIOS = (
    ("litellm", REQUEST, 85.0),
    ("portkey", REQUEST, 5.0),
    ("tensorzero", REQUEST, 1.0),
)


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar that can be judged, with what was measured."""
    ours, found = results[OURS], []
    for what, most, goal in _CAPS:
        if what in ours:
            found.append(
                {
                    "bar": f"{what} at most",
                    "required": most,
                    "goal": goal,
                    "measured": ours[what],
                    "met": ours[what] <= most,
                }
            )
    for peer, what, least in _RATIOS:
        theirs = results.get(peer, {})
        if what in ours and what in theirs:
            ratio = round(theirs[what] / ours[what], 2)
            found.append(
                {
                    "bar": f"{peer} {what} over ours, at least",
                    "required": least,
                    "measured": ratio,
                    "met": ratio >= least,
                }
            )
    return found


def show(console: Console, results: dict[str, Any]) -> None:
    """Two tables: what each gateway costs, and the bars."""
    run = results["run"]
    names = [name for name in results if name not in ("bars", "run")]
    table = Table(title="CPU time of the gateway's own processes")
    for head in (
        "gateway",
        "version",
        "µs/request",
        "range",
        "µs/chunk",
        "range",
        "µs/stream",
        "req/s",
        "p50 ms",
        "p99 ms",
        "RSS MB",
    ):
        table.add_column(head, justify="left" if head in ("gateway", "version") else "right")
    keys = (
        REQUEST,
        "range_us_per_request",
        CHUNK,
        "range_us_per_chunk",
        "cpu_us_per_stream",
        "requests_per_s",
        "p50_ms",
        "p99_ms",
        "rss_mb",
    )
    failed = []
    for name in names:
        one = results[name]
        if "failed" in one:
            failed.append(f"{name}: {one['failed']}")
            continue
        if "streams_failed" in one:
            failed.append(f"streams of {name}: {one['streams_failed']}")
        table.add_row(name, one.get("version", ""), *(_cell(one.get(key)) for key in keys))
    console.print(table)
    for words in failed:
        console.print(f"not measured: {words}", markup=False)
    second = Table(title="Bars")
    for head in ("bar", "required", "measured", "goal", ""):
        second.add_column(head)
    for bar in results["bars"]:
        second.add_row(
            bar["bar"],
            f"{bar['required']:g}",
            f"{bar['measured']:g}",
            f"{bar['goal']:g}" if "goal" in bar else "",
            "met" if bar["met"] else "missed",
        )
    console.print(second)
    console.print(
        f"{run['cpu']}, {run['cores']} cores, load {run['load_1min']}, {run['date']}, "
        f"commit {run['commit']}",
        markup=False,
    )


def _cell(value: object) -> str:
    if isinstance(value, list):
        return f"{value[0]:g}–{value[1]:g}"
    return "" if value is None else f"{value:g}"


_WIDTH, _LEFT, _RIGHT, _ROW = 760, 110, 110, 26
_INK, _MUTED, _OURS_INK, _PEER_INK = "#1f2328", "#59636e", "#1f6feb", "#9aa4af"


def chart(results: dict[str, Any]) -> str:
    """Bars of µs per request and per chunk on logarithmic scales, as one SVG."""
    names = [name for name in results if name not in ("bars", "run")]
    parts, y = [_text(12, 24, "CPU time of the gateway's own processes", 16)], 46
    run = results["run"]
    parts.append(_text(12, y, f"{run['cpu']}, {run['date'][:10]}; logarithmic", 11, _MUTED))
    y += 16
    for what, title in ((REQUEST, "µs per request"), (CHUNK, "µs per streamed chunk")):
        have = sorted((results[name][what], name) for name in names if what in results[name])
        if not have:
            continue
        y += 18
        parts.append(_text(12, y, title, 13))
        y += 10
        top = have[-1][0]
        for value, name in have:
            length = _length(value, top)
            colour = _OURS_INK if name == OURS else _PEER_INK
            parts.append(_text(_LEFT - 8, y + 12, name, 12, _INK, "end"))
            parts.append(
                f"<rect x='{_LEFT}' y='{y}' width='{length:.1f}' height='15' rx='2' "
                f"fill='{colour}'/>"
            )
            parts.append(_text(_LEFT + length + 6, y + 12, f"{value:g}", 11))
            y += _ROW
    height = y + 12
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' "
        f"height='{height}' role='img'><title>CPU time per request and chunk</title>"
        f"<rect width='100%' height='100%' fill='#ffffff'/>{''.join(parts)}</svg>\n"
    )


def _length(value: float, top: float) -> float:
    scale = _WIDTH - _LEFT - _RIGHT
    return scale * max(math.log10(max(value, 1.0)), 0.05) / max(math.log10(max(top, 10.0)), 0.1)


def _text(
    x: float, y: float, words: str, size: int, colour: str = _INK, anchor: str = "start"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-family='system-ui, sans-serif' font-size='{size}' "
        f"text-anchor='{anchor}' fill='{colour}'>{escape(words)}</text>"
    )
