"""Writes the README's table of backends from the drift reports under docs/reference/checked.

Reports come from `fungible backend check NAME --save docs/reference/checked/NAME.json`.
Run `python tools/backend_table.py` after new ones; `--check` only says whether it is up to date.
"""

import argparse
import sys
from pathlib import Path

from fungible.conformance.report import DriftReport, read_report

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
REPORTS = ROOT / "docs" / "reference" / "checked"
BEGIN, END = "<!-- backends: begin (tools/backend_table.py) -->", "<!-- backends: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    new = with_table(text)
    if check:
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


def with_table(text: str) -> str:
    """The README with the table of today's reports in it."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    reports = [read_report(path) for path in sorted(REPORTS.glob("*.json"))]
    return f"{before}{BEGIN}\n{table(reports)}{END}{after}"


def table(reports: list[DriftReport]) -> str:
    lines = [
        "| checked backend | kind, target | honoured | not honoured | on |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_row(report) for report in reports]) + "\n"


def _row(report: DriftReport) -> str:
    asked = [one for one in report.findings if one.outcome != "untested"]
    honoured = [one for one in asked if one.outcome == "honoured"]
    rest = [f"{one.name} ({one.outcome})" for one in asked if one.outcome != "honoured"]
    where = f"`{report.kind}`" + (f", `{report.target}`" if report.target else "")
    cells = (
        f"`{report.backend}`",
        where,
        f"{len(honoured)} of {len(asked)}",
        ", ".join(rest) or "–",
        report.at[:10],
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
