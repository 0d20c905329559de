"""The guide's marts are those of the dbt project, and the wheel carries all of it."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tables_are_generated_from_the_schema() -> None:
    command = [sys.executable, "tools/mart_tables.py", "--check"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"run tools/mart_tables.py; {done.stderr}"


def test_the_wheel_carries_the_whole_project() -> None:
    """Listed by hand in pyproject.toml, because a checkout also holds what dbt left there."""
    project = ROOT / "warehouse" / "dbt"
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    carried = hatch["build"]["targets"]["wheel"]["force-include"]
    made = {"target", "logs", ".venv", "dbt_packages", ".user.yml"}
    there = {f"warehouse/dbt/{path.name}" for path in project.iterdir() if path.name not in made}
    assert there == {path for path in carried if path.startswith("warehouse/dbt")}
    assert all(to == f"fungible/{path}" for path, to in carried.items())
