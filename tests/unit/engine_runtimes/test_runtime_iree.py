"""What is peculiar to IREE; what it shares with other runtimes is in the conformance suite."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fungible.artifacts.program import load_program
from fungible.contract.target import parse_target
from fungible.engine.runtimes.registry import open_runtime
from fungible.engine.runtimes.xla_shapes import StepShape
from fungible.errors import EngineError, InputError, MissingExtraError, UnavailableError
from support.runtimes import expected, installed, open_or_skip, some_tokens
from support.tiny_model import build_tiny_artifact

pytestmark = pytest.mark.skipif(not installed("iree"), reason="iree-base-runtime is not installed")
SIZES = {"slots": 1, "context": 24, "threads": 1}
WITHOUT_COMPILER = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
import numpy as np

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib") or name.startswith("iree.compiler"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from fungible.contract.target import Target
from fungible.engine.runtimes.registry import open_runtime
from fungible.errors import FungibleError

try:
    runtime = open_runtime(
        Path(sys.argv[1]), "f32", Target("iree"), slots=1, context=24, threads=1
    )
except FungibleError as error:
    sys.exit(f"{error} | {error.hint}")
logits = [runtime.prefill(0, np.arange(5)), runtime.decode([0], np.array([7]))[0]]
np.save(sys.argv[2], logits)
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=["f32"])


@pytest.fixture(scope="module")
def compiled(artifact: Path) -> Path:
    """The artifact, with the modules of `SIZES` beside it."""
    open_or_skip(artifact, "iree", **SIZES).close()
    return artifact


def modules(artifact: Path) -> list[Path]:
    return sorted((artifact.parent / ".cache" / "iree").rglob("*.vmfb"))


def without_compiler(artifact: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_COMPILER, str(artifact), str(out)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_compiled_modules_need_neither_compiler_nor_jax(compiled: Path, tmp_path: Path) -> None:
    done = without_compiler(compiled, tmp_path / "logits.npy")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = np.load(tmp_path / "logits.npy")
    tokens = np.array([0, 1, 2, 3, 4, 7])
    np.testing.assert_allclose(first, expected(tokens[:-1])[-1], atol=1e-4)
    np.testing.assert_allclose(second, expected(tokens)[-1], atol=1e-4)


def test_without_modules_the_install_line_is_told(compiled: Path, tmp_path: Path) -> None:
    moved = tmp_path / "store" / compiled.name
    shutil.copytree(compiled, moved)
    done = without_compiler(moved, tmp_path / "logits.npy")
    assert done.returncode == 1
    assert "iree.compiler to compile it with is not installed" in done.stderr
    assert "pip install 'fungible[iree-compiler]'" in done.stderr
    assert modules(moved) == []


def test_keys_and_values_are_written_in_place(compiled: Path) -> None:
    runtime = open_or_skip(compiled, "iree", **SIZES)
    device, caches = runtime._device, runtime._caches  # type: ignore[attr-defined]
    runtime.prefill(0, some_tokens(6))
    runtime.decode([0], some_tokens(1))
    for cache in caches:
        held = device.fetch(cache)
        assert np.abs(held[0, :, :7]).min(axis=-1).all()
        assert not held[0, :, 16:].any()
    assert runtime._caches is caches  # type: ignore[attr-defined]
    runtime.close()


def test_a_damaged_module_is_named(compiled: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(compiled.parent, store)
    for path in modules(store / compiled.name):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(EngineError, match=r"\.vmfb: IREE cannot load it") as damaged:
        open_or_skip(store / compiled.name, "iree", **SIZES)
    assert "delete the file" in str(damaged.value.hint)


def test_a_store_that_cannot_be_written_still_runs(artifact: Path, tmp_path: Path) -> None:
    moved = tmp_path / "store" / artifact.name
    shutil.copytree(artifact, moved)
    (moved.parent / ".cache").write_text("in the way of a folder")
    runtime = open_or_skip(moved, "iree", **SIZES)
    np.testing.assert_allclose(
        runtime.prefill(0, some_tokens(3)), expected(some_tokens(3))[-1], atol=1e-4
    )
    runtime.close()


@pytest.mark.parametrize(
    "target", ["iree:cuda:sm_90", "iree:rocm:gfx942", "iree:vulkan:ampere", "iree:metal"]
)
def test_modules_are_compiled_for_devices_that_are_not_here(
    artifact: Path, target: str, tmp_path: Path
) -> None:
    from fungible.engine.runtimes.iree_modules import ForkSize, ModuleStore  # noqa: PLC0415  # IREE

    folder, sizes = artifact / "f32", {"N": SIZES["slots"] + 1, "C": SIZES["context"]}
    store = ModuleStore(folder, load_program(folder), parse_target(target), sizes, tmp_path)
    try:
        for size in (StepShape(1, 1, 16), StepShape(1, 8, 16), ForkSize(16)):
            assert store.compile(size).stat().st_size > 0
    except MissingExtraError as error:
        pytest.skip(f"{error} ({error.hint})")
    finally:
        store.close()


@pytest.mark.parametrize(
    ("target", "error", "told"),
    [
        ("iree:tpu", InputError, "iree:rocm:gfx942"),
        ("iree:cuda", InputError, "iree:cuda:sm_90"),
        ("iree:rocm:gfx942", UnavailableError, "iree:cpu"),
    ],
)
def test_other_devices_are_data(
    artifact: Path, target: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=f"{target}: IREE") as raised:
        open_runtime(artifact, "f32", parse_target(target), **SIZES)
    assert told in str(raised.value.hint)  # type: ignore[attr-defined]
