"""Wall time and peak memory of `fungible quickstart --exit`, all processes together.

    uv run python benchmarks/quickstart.py [--runs 2] [--home DIR]

Prints one JSON object per run. Memory is the proportional set size (PSS) summed over the whole
process tree, sampled once a second: shared pages count once.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def tree_pss(root: psutil.Process) -> int:
    """Bytes of the process and all of its descendants."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def run_once(home: Path) -> dict[str, object]:
    """One quickstart, measured."""
    command = [sys.executable, "-m", "fungible", "quickstart", "--exit", "--json"]
    command += ["--home", str(home), "--gateway-port", "0", "--control-port", "0"]
    started, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out)
        root = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                peak = max(peak, tree_pss(root))
            except psutil.Error:
                break
            time.sleep(1.0)
        child.wait()
        out.seek(0)
        answer = json.loads(out.read() or b"{}")
    return {
        "date": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        "exit": child.returncode,
        "wall_s": round(time.monotonic() - started, 1),
        "peak_pss_mb": round(peak / 1e6),
        "load_1min": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "home_mb": round(sum(f.stat().st_size for f in home.rglob("*") if f.is_file()) / 1e6),
        "answer": answer,
    }


def main() -> None:
    """Run it `--runs` times in the same home; the second run reuses what the first built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--home", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = arguments.home or Path(scratch) / "home"
        for _ in range(arguments.runs):
            print(json.dumps(run_once(home)), flush=True)


if __name__ == "__main__":
    main()
