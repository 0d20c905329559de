"""TensorZero as a peer: embedded in Python, for its packages hold no HTTP server."""

import argparse
import json
import subprocess
from pathlib import Path

from gateway import wire
from gateway.gateways import TENSORZERO, Upstreams, installed_version
from gateway.load import CONNECTIONS, LoadError
from gateway.overhead import Sample
from peers.environments import interpreter

_CONFIG = """
[gateway]
observability.enabled = false
[models.{model}]
routing = ["p"]
[models.{model}.providers.p]
type = "openai"
model_name = "bench"
api_base = "http://{whole}/v1/"
api_key_location = "none"
[models.{stream_model}]
routing = ["p"]
[models.{stream_model}.providers.p]
type = "openai"
model_name = "bench"
api_base = "http://{streams}/v1/"
api_key_location = "none"
"""
_DRIVER = Path(__file__).with_name("tensorzero_driver.py")


def measure(
    where: Upstreams, home: Path, arguments: argparse.Namespace, *, install: bool
) -> Sample:
    """CPU time of the process that holds it, its Python caller included; telemetry is off.

    Raises:
        LoadError: The driver failed.
        NotInstalledError: It cannot be installed.
    """
    python = interpreter("tensorzero", TENSORZERO, arguments.peers_dir, install=install)
    home.mkdir(parents=True, exist_ok=True)
    config = home / "tensorzero.toml"
    config.write_text(
        _CONFIG.format(
            model=wire.MODEL,
            stream_model=wire.STREAM_MODEL,
            whole=where.whole,
            streams=where.streams,
        )
    )
    job = {
        "config": str(config),
        "connections": CONNECTIONS,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "model": wire.MODEL,
        "stream_model": wire.STREAM_MODEL,
        "messages": json.loads(wire.request(stream=False))["messages"],
    }
    done = subprocess.run(
        [python, "-P", _DRIVER],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=60 + 4 * arguments.seconds * (arguments.rounds + 1),
        check=False,
    )
    if done.returncode:
        raise LoadError(f"tensorzero: {done.stderr.strip()[-300:]}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Sample(
        version=installed_version(python, "tensorzero"),
        request_us=said["request_us"],
        stream_us=said["stream_us"],
        rss_mb=said["rss_mb"],
    )
