"""Results as pages for people, in Markdown."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

WORST = 10
SECOND_NS = 10**9
VERDICTS = {
    "within": "Everything that was billed is explained to within the target.",
    "beyond": "**More is unexplained than the target allows.**",
    "inconclusive": "**There is nothing to compare with, or a line cannot be converted.**",
    "empty": "Nothing was priced and nothing was billed.",
}


def in_markdown(found: Mapping[str, Any]) -> str:
    """The page of one reconciliation, as `fungible cost reconcile --json` gives it."""
    since, until = (_day(found[end]) for end in ("since_ns", "until_ns"))
    lines = [
        f"# Reconciliation, {since} to {until} (exclusive)",
        "",
        VERDICTS.get(found["outcome"], str(found["outcome"])),
        f"Target: at most {Decimal(str(found['target'])):.0%} of what is billed for use.",
        "",
        *_issuers(found["issuers"], found["currency"]),
        *_worst(found["rows"], found["currency"]),
    ]
    if found["gaps"]:
        lines += ["", "Known gaps:", ""]
        lines += [
            f"- {gap['day']} {gap['issuer']}, {gap['kind']}: {_money(gap['amount'])}"
            for gap in found["gaps"]
        ]
    if found["unpriced"]:
        count = sum(one["attempts"] for one in found["unpriced"])
        lines += ["", f"Attempts without a price: {count}; what they cost is inside `unexplained`."]
    lines += [f"- {problem}" for problem in found["problems"]]
    return "\n".join(lines)


def _issuers(issuers: Sequence[Mapping[str, Any]], currency: str) -> list[str]:
    return _table(
        ("issuer", "state", f"billed, {currency}", "priced", "known gaps", "unexplained", "share"),
        [
            (
                one["issuer"],
                one["state"],
                _money(one["billed"]),
                _money(one["priced"]),
                _money(one["gaps"]),
                _money(one["unexplained"]),
                "" if one["share"] is None else f"{Decimal(str(one['share'])):.3%}",
            )
            for one in issuers
        ],
    )


def _worst(rows: Sequence[Mapping[str, Any]], currency: str) -> list[str]:
    """The lines with the largest unexplained amounts."""
    odd = [row for row in rows if Decimal(str(row["unexplained"] or 0))]
    if not odd:
        return []
    odd.sort(key=lambda row: abs(Decimal(str(row["unexplained"]))), reverse=True)
    return [
        "",
        f"The largest of {len(odd)} unexplained amounts:",
        "",
        *_table(
            ("issuer", "SKU", "day", f"billed, {currency}", "priced", "unexplained"),
            [
                (
                    row["issuer"],
                    row["sku"],
                    row["day"],
                    _money(row["billed"]),
                    _money(row["priced"]),
                    _money(row["unexplained"]),
                )
                for row in odd[:WORST]
            ],
        ),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (head, ["---"] * len(head), *rows)
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _money(amount: Any) -> str:
    """Rounded for display, and only here."""
    if amount is None:
        return "none"
    return f"{Decimal(str(amount)).quantize(Decimal('0.01'), ROUND_HALF_EVEN):,}"


def _day(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // SECOND_NS, UTC):%Y-%m-%d}"
