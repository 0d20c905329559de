"""Writes the guide's description of every mart from `warehouse/dbt/models/marts/schema.yml`.

Run `python tools/mart_tables.py` after a change there; `--check` says whether it is up to date.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guides" / "warehouse.md"
SCHEMA = ROOT / "warehouse" / "dbt" / "models" / "marts" / "schema.yml"
BEGIN, END = "<!-- marts: begin (tools/mart_tables.py) -->", "<!-- marts: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = GUIDE.read_text(encoding="utf-8")
    new = with_marts(text)
    if check:
        return int(new != text)
    GUIDE.write_text(new, encoding="utf-8")
    return 0


def with_marts(text: str) -> str:
    """The guide with today's marts in it."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    models = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))["models"]
    return f"{before}{BEGIN}\n\n{''.join(map(section, models))}{END}{after}"


def section(model: dict[str, Any]) -> str:
    """One mart: what it is for, its grain and its columns."""
    grain = ", ".join(f"`{name}`" for name in model["config"]["meta"]["grain"])
    lines = [f"### {model['name']}", "", model["description"], "", f"One row per {grain}.", ""]
    lines += ["| column | type | meaning |", "|---|---|---|"]
    for column in model["columns"]:
        lines.append(f"| `{column['name']}` | {column['data_type']} | {column['description']} |")
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    sys.exit(main())
