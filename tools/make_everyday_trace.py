"""Writes `src/fungible/bench/traces/everyday.jsonl`: synthetic, seeded, nobody's traffic.

`--check` only compares; it exits 1 when the file in the tree is not what this makes.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from fungible.bench.arrivals import gamma_offsets

SEED = 20_240_607
REQUESTS, RATE, CV, BLOCK = 40, 2.0, 1.8, 16
TRACE = Path(__file__).resolve().parents[1] / "src/fungible/bench/traces/everyday.jsonl"


def render() -> bytes:
    """One Mooncake row per line; requests of a session share their first two blocks."""
    rng = random.Random(SEED)
    lines = []
    fresh = 1000
    for due in gamma_offsets(REQUESTS, rate=RATE, cv=CV, seed=SEED):
        session = rng.randrange(12)
        length = rng.randrange(20, 81)
        blocks = -(-length // BLOCK)
        ids = [2 * session, 2 * session + 1][:blocks]
        while len(ids) < blocks:
            ids.append(fresh)
            fresh += 1
        row = {
            "timestamp": round(1000 * due),
            "input_length": length,
            "output_length": rng.randrange(8, 33),
            "hash_ids": ids,
            "session_id": f"s{session:02}",
        }
        lines.append(json.dumps(row))
    return ("\n".join(lines) + "\n").encode()


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description="Write the bundled trace `everyday`.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if parser.parse_args().check:
        same = TRACE.is_file() and TRACE.read_bytes() == render()
        print(f"{TRACE.name}: {'as generated' if same else 'differs'}")
        return 0 if same else 1
    TRACE.write_bytes(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
