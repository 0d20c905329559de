"""A real engine process over the tiny model."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FUNGIBLE = str(Path(sys.executable).with_name("fungible"))


def start(home: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """An engine that is ready, and its address."""
    command = [FUNGIBLE, "engine", "serve", "--home", str(home), "--artifact", "tiny-llama"]
    command += ["--model-name", "tiny", "--context", "256", "--threads", "1", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, errors = process.communicate(timeout=20)
        pytest.fail(f"the engine did not start: {errors}")
    ready = json.loads(line)
    assert (ready["event"], ready["name"], ready["pid"]) == ("ready", "engine", process.pid)
    return process, ready["url"]


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """End the process; what it wrote to stderr."""
    if process.poll() is None:
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return errors
