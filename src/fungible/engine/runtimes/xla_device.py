"""Devices, programs and the cache of compiled code, for whatever runs StableHLO through JAX."""

import contextlib
import hashlib
import os
import platform
import tempfile
from pathlib import Path
from typing import Final

import jax
from jax import export
from jax.experimental.compilation_cache import compilation_cache

from fungible.artifacts.program import Program
from fungible.contract.target import Target
from fungible.errors import ArtifactError, UnavailableError

_PLUGINS: Final = {
    "cuda": "pip install 'jax[cuda13]'",
    "rocm": "pip install 'jax[rocm7-local]'",
    "tpu": "pip install 'jax[tpu]'",
}


def load_exported(folder: Path, program: Program) -> export.Exported:
    """The program in a variant's folder, as JAX calls it.

    Raises:
        ArtifactError: It is missing, or this JAX cannot read it.
    """
    path = folder / program.jax_export
    try:
        return export.deserialize(bytearray(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        raise ArtifactError(
            f"{path}: JAX {jax.__version__} cannot read the program: {error}",
            hint=f"it was exported by JAX {program.jax_version}; build the artifact again",
        ) from error


def open_device(target: Target, threads: int) -> jax.Device:
    """The first device of the target's platform; other platforms are not initialised.

    Args:
        target: `xla:DEVICE`.
        threads: Of a CPU; the first device opened in a process decides for all.

    Raises:
        UnavailableError: JAX finds no such device here.
    """
    if target.device == "cpu":
        os.environ["PJRT_NPROC"] = str(threads)
    else:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", target.device)
    try:
        return jax.devices(target.device)[0]
    except RuntimeError as error:
        jax.config.update("jax_platforms", before)
        hint = _PLUGINS.get(target.device, f"install a PJRT plugin for {target.device}")
        raise UnavailableError(f"{target}: JAX finds no such device: {error}", hint=hint) from error


def use_compilation_cache(root: Path) -> None:
    """Let JAX keep compiled steps under `root`, unless the user set a place or it is read-only.

    Code for one CPU may use instructions that another lacks, so each kind has its folder.
    """
    folder = root / _host_fingerprint()
    current = jax.config.jax_compilation_cache_dir
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or current == str(folder):
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()


def _host_fingerprint() -> str:
    lines = ["", platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        lines += [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    return hashlib.sha256("\n".join(sorted(set(lines))).encode()).hexdigest()[:12]
