"""Compile steps for chips: each in a worker process, each kept on disk for the next time."""

import contextlib
import hashlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from fungible.artifacts.program import Program, load_program
from fungible.artifacts.store import disk_errors
from fungible.preflight.chips import Chip
from fungible.preflight.counts import StepShape
from fungible.preflight.job import Job, Outcome
from fungible.preflight.worker import first_line

NEEDED = {
    "tpu": ("jax", "libtpu"),
    "xla": ("jax",),
    "iree": ("jax", "iree-base-compiler"),
}
# Raise it when the same inputs would give another result: it is part of every key.
_RECIPE = 2
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    # Its lock is for hardware; compilations do not touch any, and may run beside each other.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class StepCompiler:
    """Compiles the steps of one variant.

    Args:
        folder: The variant's folder, with its program.
        cache: Directory that keeps what compiled; made when needed.
        timeout_s: When a compiler is stopped.
    """

    def __init__(self, folder: Path, cache: Path, timeout_s: float) -> None:
        self._folder = folder.resolve()
        self._cache = cache
        self._timeout_s = timeout_s
        program: Program = load_program(folder)
        with disk_errors(folder):
            self._digest = hashlib.sha256((folder / program.jax_export).read_bytes()).hexdigest()

    def compile(self, chip: Chip, shape: StepShape) -> Outcome:
        """The outcome for one chip; from disk when the same was compiled before."""
        missing = missing_packages(chip)
        if missing:
            needs = f"needs {', '.join(missing)}: pip install 'fungible[preflight]'"
            return Outcome(why=needs)
        kept = self._path(chip, shape, ".json")
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(kept.read_bytes(), type=Outcome)
        outcome = self._compile(chip, shape)
        if not outcome.why:
            self._keep(kept, msgspec.json.encode(outcome))
        return outcome

    def _compile(self, chip: Chip, shape: StepShape) -> Outcome:
        job = Job(
            compiler=chip.compiler,
            folder=str(self._folder),
            shape=shape,
            topology=chip.topology,
            topology_options=chip.topology_options,
            flags=chip.flags,
        )
        if chip.compiler == "iree":
            module = self._path(None, shape, ".mlirbc")
            if not module.is_file():
                made = self._make_static(job, module)
                if made.why:
                    return made
            job = msgspec.structs.replace(job, module=str(module))
        return run_worker(job, self._timeout_s)

    def _make_static(self, job: Job, module: Path) -> Outcome:
        with tempfile.TemporaryDirectory() as directory:
            written = Path(directory) / module.name
            static = msgspec.structs.replace(job, compiler="static", module=str(written))
            outcome = run_worker(static, self._timeout_s)
            if not outcome.why:
                self._keep(module, written.read_bytes())
        return outcome

    def _path(self, chip: Chip | None, shape: StepShape, ending: str) -> Path:
        """Where a result lies: named by everything that it depends on."""
        parts = [_RECIPE, self._digest, shape, platform.machine()]
        packages = {"jax", "jaxlib"}
        if chip is not None:
            parts += [chip.compiler, chip.topology, chip.topology_options, chip.flags]
            packages |= {*NEEDED[chip.compiler]}
        parts += [(name, _version(name)) for name in sorted(packages)]
        key = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]
        return self._cache / f"{key}{ending}"

    def _keep(self, path: Path, data: bytes) -> None:
        with disk_errors(self._cache):
            self._cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}")
            partial.write_bytes(data)
            partial.rename(path)


def missing_packages(chip: Chip) -> list[str]:
    """The packages that the chip's compiler needs and that are not installed."""
    return [name for name in NEEDED[chip.compiler] if _version(name) is None]


def compiler_name(chip: Chip) -> str:
    """The compiler and its version, such as `libtpu 0.0.52`."""
    package = "jaxlib" if chip.compiler == "xla" else NEEDED[chip.compiler][-1]
    return f"{package} {_version(package) or '(not installed)'}"


def run_worker(job: Job, timeout_s: float) -> Outcome:
    """Run a job in a process of its own; how it ended, if it left no answer, is the outcome."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "outcome.json"
        # -P: a file of the working directory must not stand in for a library.
        command = [sys.executable, "-P", "-m", "fungible.preflight.worker", str(answer)]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
        ) as process:
            try:
                _, errors = process.communicate(msgspec.json.encode(job), timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return Outcome(why=f"the compiler was stopped after {timeout_s:g} s")
            finally:
                _end(process)
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(answer.read_bytes(), type=Outcome)
    return Outcome(why=_how_it_ended(process.returncode, errors.decode(errors="replace")))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker that still runs, with whatever it started; on Ctrl-C too."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _how_it_ended(status: int, errors: str) -> str:
    last = first_line("\n".join(reversed(errors.splitlines())))
    if status < 0:
        return f"the compiler ended by {signal.Signals(-status).name}: {last}"
    return last or f"the compiler ended with status {status}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
