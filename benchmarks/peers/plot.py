"""A bar chart of decode tokens/s per engine as one self-contained SVG."""

from collections.abc import Sequence
from html import escape

from peers.catalogue import CLASSES, OURS
from peers.report import Row

_WIDTH, _LEFT, _RIGHT, _TOP = 860, 210, 150, 64
_ROW, _GAP, _THICK = 24, 18, 14
_OURS, _PEER, _INK, _MUTED, _PAPER = "#1f6feb", "#9aa4af", "#1f2328", "#59636e", "#ffffff"
_FONT = "font-family='system-ui, sans-serif'"


def decode_svg(rows: Sequence[Row], title: str, note: str) -> str:
    """Bars by class, fastest first: whiskers are the range over rounds, ticks the bound.

    Args:
        rows: Those without decode figures are left out.
        title: Above the chart.
        note: Below the title: machine and date.
    """
    groups = [
        (name, sorted(have, key=lambda row: -_median(row)))
        for name in CLASSES
        if (have := [row for row in rows if row.decode and row.precision == name])
    ]
    # A bound far beyond every bar would squeeze them; it is cut at the edge instead.
    most = max((row.decode.high for _, have in groups for row in have if row.decode), default=1.0)
    most *= 1.1
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    parts, y = [], _TOP
    for name, have in groups:
        parts.append(_text(12, y + 4, f"{name}", size=13, weight=600))
        y += _GAP
        for row in have:
            parts += _bar(row, y, scale, most)
            y += _ROW
        y += _GAP
    height = y + 12
    head = [
        _text(12, 24, title, size=16, weight=600),
        _text(12, 44, note, size=11, colour=_MUTED),
    ]
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' "
        f"width='{_WIDTH}' height='{height}' role='img'>"
        f"<title>{escape(title)}</title>"
        f"<rect width='100%' height='100%' fill='{_PAPER}'/>{''.join([*head, *parts])}</svg>\n"
    )


def _median(row: Row) -> float:
    return row.decode.median if row.decode else 0.0


def _bar(row: Row, y: int, scale: float, most: float) -> list[str]:
    assert row.decode is not None
    ours = row.peer == OURS
    length = row.decode.median * scale
    middle = y + _THICK / 2
    low, high = _LEFT + row.decode.low * scale, _LEFT + row.decode.high * scale
    label = _text(_LEFT - 8, y + 11, row.name, size=12, anchor="end", weight=600 if ours else 400)
    parts = [
        label,
        f"<rect x='{_LEFT}' y='{y}' width='{length:.1f}' height='{_THICK}' rx='2' "
        f"fill='{_OURS if ours else _PEER}'/>",
        f"<path d='M{low:.1f} {middle}H{high:.1f}' stroke='{_INK}' stroke-width='1.5'/>",
    ]
    if row.bound:
        at = _LEFT + min(row.bound, most) * scale
        dashes = "" if row.bound <= most else " stroke-dasharray='2 2'"
        parts.append(
            f"<path d='M{at:.1f} {y - 2}V{y + _THICK + 2}' stroke='{_MUTED}' "
            f"stroke-width='1.5'{dashes}><title>memory bound {row.bound:.0f}</title></path>"
        )
    share = f" · {row.fraction:.0%} of bound" if row.bound else ""
    words = f"{row.decode.median:.0f}{share}"
    parts.append(_text(_WIDTH - 12, y + 11, words, size=11, anchor="end"))
    return parts


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int,
    anchor: str = "start",
    weight: int = 400,
    colour: str = _INK,
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {_FONT} font-size='{size}' font-weight='{weight}' "
        f"text-anchor='{anchor}' fill='{colour}'>{escape(words)}</text>"
    )
