"""One page, nothing to load: $ per million tokens against tokens per second of one user."""

import math
from html import escape
from pathlib import Path

from fungible.artifacts.store import disk_errors
from fungible.preflight.records import Point, Report, Row

_WIDTH, _HEIGHT = 860, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 150, 16, 52
_LABEL_GAP = 15
# Eight hues that stay apart for colour-blind readers, on light and on dark ground.
_LIGHT = ("#2a78d6", "#eb6834", "#1baf7a", "#4a3aa7", "#eda100", "#e34948", "#008300", "#e87ba4")
_DARK = ("#3987e5", "#d95926", "#199e70", "#9085e9", "#c98500", "#e66767", "#008300", "#d55181")
_STYLE = """
:root { --ground: #fcfcfb; --ink: #0b0b0b; --soft: #52514e; --grid: #e4e3df; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --ground: #1a1a19; --ink: #ffffff; --soft: #c3c2b7; --grid: #383835; DARK }
}
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } p { color: var(--soft); margin: .3rem 0 1rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
svg .name { fill: var(--ink); paint-order: stroke; stroke: var(--ground); stroke-width: 4px; }
.grid { stroke: var(--grid); }
.line { fill: none; stroke-width: 2; } .dot { stroke: var(--ground); stroke-width: 2; }
.here { fill: none; stroke-width: 2; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
td, th { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid var(--grid);
  white-space: nowrap; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
"""


def write_plot(report: Report, path: Path) -> None:
    """Write the page.

    Raises:
        DiskError: The file cannot be written.
    """
    with disk_errors(path):
        path.write_text(render_plot(report), encoding="utf-8")


def render_plot(report: Report) -> str:
    """The page as HTML; chips without a price or a bound are named under the chart."""
    shown = [row for row in report.targets if row.compiles and _priced(row)]
    left_out = [row for row in report.targets if row not in shown]
    title = f"{report.artifact} {report.variant}: least price against greatest speed"
    page = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(title)}</title><style>{_style()}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>Bounds by memory and arithmetic, not measurements, for rows of {report.context} "
        "tokens; each point is a batch, the ring is a batch "
        f"of {report.batch}. {escape(str(report.date))}</p>",
        _chart(report, shown) if shown else "<p>No chip that compiles has a bound and a price.</p>",
        _left_out(left_out),
        _table(shown),
        _prices(shown),
        "</body></html>\n",
    ]
    return "\n".join(page)


def _style() -> str:
    def named(colours: tuple[str, ...]) -> str:
        return " ".join(f"--c{at}: {colour};" for at, colour in enumerate(colours))

    return _STYLE.replace("LIGHT", named(_LIGHT)).replace("DARK", named(_DARK))


def _priced(row: Row) -> list[Point]:
    return [point for point in row.curve if point.usd_per_mtok]


class _Scale:
    """A logarithmic axis over `values`, onto pixels from `start` to `end`."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        spare = max(0.06, (high - low) * 0.05)
        self._low, self._high = low - spare, high + spare
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each power of ten that the axis covers."""
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        every = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        return [value for value in every if self._low <= math.log10(value) <= self._high]


def _chart(report: Report, rows: list[Row]) -> str:
    points = [point for row in rows for point in _priced(row)]
    across = _Scale([point.tokens_per_s_per_user for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _Scale([point.usd_per_mtok or 1 for point in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='Bounds by chip'>"]
    parts += _axes(across, up)
    labels = []
    for at, row in enumerate(rows):
        parts.append(_line(report, row, at % len(_LIGHT), across, up))
        first = _priced(row)[0]
        labels.append((up(first.usd_per_mtok or 1), across(first.tokens_per_s_per_user), row.chip))
    parts += _labels(labels)
    return "".join([*parts, "</svg>"])


def _axes(across: _Scale, up: _Scale) -> list[str]:
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in across.ticks():
        x = across(value)
        parts.append(f"<line class='grid' x1='{x:.1f}' x2='{x:.1f}' y1='{_TOP}' y2='{floor}'/>")
        parts.append(f"<text x='{x:.1f}' y='{floor + 18}' text-anchor='middle'>{value:,g}</text>")
    for value in up.ticks():
        y = up(value)
        parts.append(f"<line class='grid' x1='{_LEFT}' x2='{right}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>${value:g}</text>")
    middle = (_TOP + floor) / 2
    parts.append(
        f"<text x='{(_LEFT + right) / 2}' y='{_HEIGHT - 10}' text-anchor='middle'>"
        "tokens per second of one user, at most</text>"
        f"<text transform='rotate(-90 16 {middle})' x='16' y='{middle}' text-anchor='middle'>"
        "USD per million tokens, at least</text>"
    )
    return parts


def _line(report: Report, row: Row, colour: int, across: _Scale, up: _Scale) -> str:
    stroke = f"var(--c{colour})"
    places = [
        (across(point.tokens_per_s_per_user), up(point.usd_per_mtok or 1), point)
        for point in _priced(row)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    parts = [f"<polyline class='line' style='stroke:{stroke}' points='{path}'/>"]
    for x, y, point in places:
        told = (
            f"{row.chip}, batch {point.batch}: {point.tokens_per_s_per_user:,.0f} tokens/s per "
            f"user, {point.tokens_per_s:,.0f} in all, ${point.usd_per_mtok:.4f} per million"
        )
        parts.append(
            f"<circle class='dot' style='fill:{stroke}' cx='{x:.1f}' cy='{y:.1f}' r='5'>"
            f"<title>{escape(told)}</title></circle>"
        )
        if point.batch == report.batch:
            parts.append(
                f"<circle class='here' style='stroke:{stroke}' cx='{x:.1f}' cy='{y:.1f}' r='9'/>"
            )
    return "".join(parts)


def _labels(labels: list[tuple[float, float, str]]) -> list[str]:
    """Names at the right ends of the lines, moved down where they would touch."""
    parts = []
    placed: list[tuple[float, float]] = []
    for y, x, name in sorted(labels):
        low = y
        while any(abs(low - other) < _LABEL_GAP and abs(x - at) < _RIGHT for other, at in placed):
            low += 1
        placed.append((low, x))
        parts.append(f"<text class='name' x='{x + 12:.1f}' y='{low + 4:.1f}'>{escape(name)}</text>")
    return parts


def _left_out(rows: list[Row]) -> str:
    def reason(row: Row) -> str:
        if not row.compiles:
            return "does not compile"
        return "no bandwidth known" if row.bound_tokens_per_s is None else "no price"

    named = ", ".join(f"{escape(row.target)} ({reason(row)})" for row in rows)
    return f"<p>Not shown: {named}.</p>" if rows else ""


def _table(rows: list[Row]) -> str:
    head = ("chip", "batch", "tokens/s per user ≤", "tokens/s ≤", "$/1M tokens ≥")
    cells = [
        (
            escape(row.chip),
            f"{point.batch}",
            f"{point.tokens_per_s_per_user:,.0f}",
            f"{point.tokens_per_s:,.0f}",
            f"{point.usd_per_mtok:.4f}",
        )
        for row in rows
        for point in _priced(row)
    ]
    body = "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in line)}</tr>" for line in cells)
    named = "".join(f"<th>{name}</th>" for name in head)
    return f"<div class='scroll'><table><tr>{named}</tr>{body}</table></div>" if rows else ""


def _prices(rows: list[Row]) -> str:
    told = [
        f"{escape(row.chip)}: ${row.price.usd_per_hour:g} an hour, {escape(row.price.what)}"
        + (f" ({row.price.date}, {escape(row.price.source)})" if row.price.source else "")
        for row in rows
        if row.price
    ]
    return f"<p>Prices are examples. {'; '.join(told)}.</p>" if told else ""
