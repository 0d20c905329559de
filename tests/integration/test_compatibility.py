"""An artifact loads and computes the same when its libraries move one release."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_compatibility.py"


@pytest.mark.compat
@pytest.mark.model
@pytest.mark.timeout(1800)
def test_the_two_nearest_releases_compute_the_same(real_artifact: Path) -> None:
    command = [sys.executable, str(TOOL), str(real_artifact), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert [row["library"] for row in rows] == ["onnxruntime"] * 2 + ["jax"] * 2
    assert all(row["release"] != row["installed"] and row["ok"] for row in rows)
