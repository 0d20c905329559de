"""Our engine: the runtime alone, and the server that `fungible engine serve` starts."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from protocol import Generate, Generated, Job, StepClock, main

from fungible.contract.target import parse_target
from fungible.engine.runtimes.registry import open_runtime


def load(job: Job) -> Generate:
    """The runtime without scheduler, sampler and server; one slot."""
    runtime = open_runtime(
        Path(job["model"]),
        job["variant"],
        parse_target(job["target"]),
        slots=1,
        context=job["context"],
        threads=job["threads"],
    )

    def generate(prompt: list[int], count: int) -> Generated:
        tokens = np.array(prompt, np.int64)

        def more(token: int) -> int:
            return int(runtime.decode([0], np.array([token], np.int64))[0].argmax())

        result = StepClock(lambda: int(runtime.prefill(0, tokens).argmax()), more).generate(count)
        runtime.release(0)
        return result

    return generate


def serve(job: Job) -> tuple[str, str]:
    """The command line's own server; it ends with this process group."""
    command = [sys.executable, "-m", "fungible", "engine", "serve", "--port", "0"]
    command += ["--artifact", job["model"], "--variant", job["variant"], "--target", job["target"]]
    command += ["--slots", str(job["slots"]), "--context", str(job["context"])]
    command += ["--threads", str(job["threads"]), "--model-name", "model"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"the engine did not start: exit status {server.wait()}")
    address = json.loads(line)
    if "url" not in address:
        raise RuntimeError(f"the engine did not start: {line.strip()}")
    return f"{address['url']}/v1", "model"


if __name__ == "__main__":
    main(("fungible", "numpy"), load, serve)
