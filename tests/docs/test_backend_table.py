"""The README's table of backends is what the reports say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_generated_from_the_reports() -> None:
    command = [sys.executable, "tools/backend_table.py", "--check"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"run tools/backend_table.py; {done.stderr}"
