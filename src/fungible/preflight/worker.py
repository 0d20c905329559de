"""The process that compiles one step, so that a crash or a hang of a compiler ends only it.

`python -m fungible.preflight.worker ANSWER` reads a `Job` from standard input and writes an
`Outcome` to the file ANSWER. The parent sets the environment: libtpu reads it when JAX loads.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from fungible.errors import FungibleError
from fungible.preflight.job import Job, Memory, Outcome

_LONGEST = 300


def run(job: Job) -> Outcome:
    """Do what `job` says; a compiler's refusal is an outcome, not an error."""
    if job.compiler == "iree":
        return _iree(job)
    import jax  # noqa: PLC0415  # an IREE job does without

    try:
        return _static(job) if job.compiler == "static" else _xla(job)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        return Outcome(why=first_line(str(error)) or type(error).__name__)
    except FungibleError as error:
        return Outcome(why=error.message)


def first_line(text: str) -> str:
    """The line of a compiler's output that says what is wrong, cut to fit a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line.lower()] or lines
    line = telling[0] if telling else ""
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _xla(job: Job) -> Outcome:
    import jax  # noqa: PLC0415  # heavy
    from jax.experimental import topologies  # noqa: PLC0415

    from fungible.preflight.instantiate import lower_step  # noqa: PLC0415

    if job.compiler == "tpu":
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=job.topology, **job.topology_options
        )
        device = topology.devices[0]
    else:
        device = jax.devices("cpu")[0]
    lowered = lower_step(Path(job.folder), job.shape, device)
    started = time.monotonic()
    compiled = lowered.compile()
    seconds = time.monotonic() - started
    return Outcome(seconds=seconds, memory=_xla_memory(compiled.memory_analysis()))


def _xla_memory(stats: Any) -> Memory:  # noqa: ANN401  # jaxlib has no type for it
    if stats is None:
        return Memory()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        results=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporary=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def _static(job: Job) -> Outcome:
    from fungible.artifacts.program import load_program  # noqa: PLC0415  # only this job needs it
    from fungible.artifacts.static_program import StaticProgram  # noqa: PLC0415  # heavy

    folder = Path(job.folder)
    static = StaticProgram(folder, load_program(folder)).at(job.shape.symbols())
    Path(job.module).write_bytes(static)
    return Outcome()


def _iree(job: Job) -> Outcome:
    from iree.compiler.tools import binaries  # noqa: PLC0415  # heavy

    with tempfile.TemporaryDirectory() as directory:
        made, statistics = Path(directory) / "step.vmfb", Path(directory) / "statistics.json"
        command = [
            binaries.find_tool("iree-compile"),
            "--iree-input-type=stablehlo",
            "--iree-opt-level=O3",
            *job.flags,
            "--iree-scheduling-dump-statistics-format=json",
            f"--iree-scheduling-dump-statistics-file={statistics}",
            f"-o={made}",
            job.module,
        ]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if done.returncode != 0:
            ended = f"iree-compile ended with status {done.returncode}"
            return Outcome(why=first_line(done.stderr) or ended, seconds=seconds)
        memory = Memory(temporary=_transient(statistics), code=made.stat().st_size)
    return Outcome(seconds=seconds, memory=memory)


def _transient(statistics: Path) -> int | None:
    """Memory that IREE reserves while the step runs, from the figures that it dumps."""
    try:
        found = msgspec.json.decode(statistics.read_bytes())
        return int(found["stream-aggregate"]["execution"]["transient-memory-size"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    outcome = run(msgspec.json.decode(sys.stdin.buffer.read(), type=Job))
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(outcome))
