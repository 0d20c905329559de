"""The quickstart's answer: one row per backend, as a table and as data."""

from decimal import Decimal
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from fungible.contract.events import VerdictEvent

_COLOURS = {"pass": "green", "fail": "red", "refused": "red", "inconclusive": "yellow"}


class BackendRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one backend. Money in US dollars, as decimal strings.

    Attributes:
        verdict: `reference`, or the verdict's outcome.
        tokens_per_s: Input and output tokens per second with all slots busy.
        sticker_usd_per_mtok: Price per hour over tokens per hour at that speed: the number on
            the label, idle time and wrong answers left out.
        net_usd_per_accepted: Cost of the suite's attempts over the answers that were right.
    """

    name: str
    target: str
    variant: str
    verdict: str
    ttft_p50_ms: float
    ttft_p99_ms: float
    tokens_per_s: float
    sticker_usd_per_mtok: str
    net_usd_per_accepted: str
    score: float
    loss_upper: float | None = None
    reasons: list[str] = []


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What `fungible quickstart --json` prints."""

    backends: list[BackendRow]
    winner: str | None
    refused: dict[str, str]
    migration: dict[str, Any] | None
    dashboard: str
    gateway: str
    answered: int
    notes: list[str]
    seconds: dict[str, float]


def choose_winner(rows: list[BackendRow]) -> str | None:
    """The backend with a passing verdict and the lowest net cost per accepted answer."""
    passed = [row for row in rows if row.verdict == "pass"]
    cheapest = min(passed, key=lambda row: Decimal(row.net_usd_per_accepted), default=None)
    return cheapest.name if cheapest else None


def sticker(price_per_hour: Decimal, tokens_per_s: float) -> str:
    """US dollars per million tokens, rounded for display to six places."""
    if tokens_per_s <= 0:
        return ""
    per_token = price_per_hour / Decimal(3600) / Decimal(repr(tokens_per_s))
    return str((per_token * 1_000_000).quantize(Decimal("0.000001")))


def verdict_word(verdict: VerdictEvent | None) -> str:
    """`reference` for the backend that the others are judged against."""
    return verdict.outcome if verdict is not None else "reference"


def table(outcome: Outcome) -> Table:
    """One row per backend, the winner marked; narrow enough for a terminal of 100 columns."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("backend", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    for title in ("score", "TTFT p50", "TTFT p99", "tokens/s", "sticker $/1M", "net $/accepted"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in outcome.backends:
        colour = _COLOURS.get(row.verdict, "default")
        shown.add_row(
            f"{row.name} ◀ winner" if row.name == outcome.winner else row.name,
            f"[{colour}]{row.verdict}[/]",
            f"{row.score:.3f}",
            f"{row.ttft_p50_ms:.0f} ms",
            f"{row.ttft_p99_ms:.0f} ms",
            f"{row.tokens_per_s:.0f}",
            f"{Decimal(row.sticker_usd_per_mtok or 'NaN'):.4f}",
            f"{Decimal(row.net_usd_per_accepted):.8f}",
            style="bold" if row.name == outcome.winner else "",
        )
    return shown
