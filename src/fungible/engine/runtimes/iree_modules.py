"""Compiled IREE modules of one program, kept on disk.

A module is compiled for one step size and one kind of chip. It is found again by the digest of
the program, the sizes and the compiler's version, so a machine with the files needs neither
the compiler nor JAX.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fungible.artifacts.manifest import hash_file
from fungible.artifacts.program import Program
from fungible.contract.target import Target
from fungible.engine.runtimes.iree_device import code_name, compiler_flags
from fungible.engine.runtimes.iree_fork import fork_program
from fungible.engine.runtimes.xla_shapes import StepShape
from fungible.errors import EngineError, MissingExtraError

if TYPE_CHECKING:
    from fungible.artifacts.static_program import StaticProgram

# Changes when the same program is compiled in another way.
_RECIPE: Final = 1
_PATIENT: Final = 10
# The default level leaves products of one row seven times slower.
_FLAGS: Final = ("--iree-input-type=stablehlo", "--iree-opt-level=O3")


class ForkSize(NamedTuple):
    """Cached positions copied from one slot to another."""

    window: int


ModuleSize = StepShape | ForkSize


class ModuleStore:
    """The modules of one program for one device.

    Args:
        folder: The variant's folder in the artifact.
        program: Its program.
        target: What to compile for.
        sizes: The program's symbols that are the same for every step: `N` and `C`.
        root: Where modules are kept; if it cannot be written, a temporary folder is used.
    """

    def __init__(
        self, folder: Path, program: Program, target: Target, sizes: dict[str, int], root: Path
    ) -> None:
        self._folder = folder
        self._program = program
        self._target = target
        self._sizes = sizes
        digest = hash_file(folder / program.module).sha256[:16]
        self._root = root / f"{digest}-{code_name(target)}-r{_RECIPE}"
        self._static: StaticProgram | None = None
        self._spare: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def find(self, size: ModuleSize) -> Path | None:
        """The module of this size: the installed compiler's, or without one the newest."""
        installed = _compiler_version()
        versions = [installed] if installed else self._versions()
        places = [self._root / version for version in versions]
        if self._spare:
            places.append(Path(self._spare.name))
        paths = [place / self._name(size) for place in places]
        return next((path for path in paths if path.exists()), None)

    def compile(self, size: ModuleSize, *, patient: bool = False) -> Path:
        """The module of this size, compiled if it is not there.

        Args:
            size: Of a step, or of a fork.
            patient: Nobody waits for it: the compiler leaves the processor to others.

        Raises:
            EngineError: The compiler refuses the program.
            MissingExtraError: The compiler or JAX is not installed.
        """
        with self._lock:
            found = self.find(size)
            return found if found is not None else self._write(size, self._code(size), patient)

    def close(self) -> None:
        """Stop a compiler that is running, and remove what could not be kept."""
        process = self._process
        if process is not None:
            process.kill()
        if self._spare:
            self._spare.cleanup()

    def _name(self, size: ModuleSize) -> str:
        names = ("W",) if isinstance(size, ForkSize) else ("B", "S", "P")
        sizes = {**self._sizes, **dict(zip(names, size, strict=True))}
        return "-".join(f"{symbol}{number}" for symbol, number in sizes.items()) + ".vmfb"

    def _code(self, size: ModuleSize) -> bytes:
        if isinstance(size, ForkSize):
            self._require("iree.compiler", size)
            return fork_program(self._program, self._sizes, size.window)
        self._require("iree.compiler", size)
        self._require("jax", size)
        if self._static is None:
            from fungible.artifacts.static_program import StaticProgram  # noqa: PLC0415  # needs JAX

            self._static = StaticProgram(self._folder, self._program)
        return self._static.at({"B": size.rows, "S": size.length, "P": size.window} | self._sizes)

    def _versions(self) -> list[str]:
        with contextlib.suppress(OSError):
            found = (path.name for path in self._root.iterdir() if path.is_dir())
            return sorted(found, key=_numbers, reverse=True)
        return []

    def _require(self, package: str, size: ModuleSize) -> None:
        try:
            found = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise MissingExtraError(
                f"target {self._target}: {self._root} has no {self._name(size)}, and {package} "
                "to compile it with is not installed",
                hint="pip install 'fungible[iree-compiler]', or copy that folder from a machine "
                "that has it",
            )

    def _write(self, size: ModuleSize, code: bytes, patient: bool) -> Path:
        folder = self._writable()
        handle, unfinished = tempfile.mkstemp(dir=folder, suffix=".partial")
        os.close(handle)
        flags = [*_FLAGS, *compiler_flags(self._target)]
        command = [_compiler(), "-", "-o", unfinished, *flags]
        try:
            self._process = process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            if patient:
                with contextlib.suppress(OSError, AttributeError):
                    os.setpriority(os.PRIO_PROCESS, process.pid, _PATIENT)
            _, told = process.communicate(code)
            if process.returncode != 0:
                raise EngineError(f"IREE cannot compile {size} for {self._target}: {_reason(told)}")
            Path(unfinished).replace(folder / self._name(size))
        finally:
            self._process = None
            Path(unfinished).unlink(missing_ok=True)
        return folder / self._name(size)

    def _writable(self) -> Path:
        folder = self._root / (_compiler_version() or "unknown")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            if self._spare is None:
                self._spare = tempfile.TemporaryDirectory(prefix="fungible-iree-")
            return Path(self._spare.name)
        return folder


def _compiler() -> str:
    """The compiler's program; importing the package would load all of MLIR into this process."""
    package = importlib.util.find_spec("iree.compiler")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        path = Path(folder) / "_mlir_libs" / "iree-compile"
        if path.is_file():
            return str(path)
    return shutil.which("iree-compile") or "iree-compile"


def _compiler_version() -> str:
    try:
        return metadata.version("iree-base-compiler")
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _reason(told: bytes) -> str:
    lines = told.decode(errors="replace").splitlines()
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    return (errors or lines or ["no reason given"])[0]
