"""What goes wrong outside the program: one clear error, and nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fungible.artifacts.build import build_artifact
from fungible.artifacts.session import open_session
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.verify import verify_artifact
from fungible.errors import ArtifactError
from support.tiny_model import write_tiny_checkpoint

CLI = [sys.executable, "-c", "from fungible.cli.main import main; main()", "artifact"]
# `None` in the table of modules is what an absent package looks like to an import.
WITHOUT_OPENVINO = [
    sys.executable,
    "-c",
    "import sys; sys.modules['openvino'] = None; from fungible.cli.main import main; main()",
    "artifact",
]
OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from fungible.artifacts.session import open_session
from fungible.errors import ArtifactError
sizes = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(sizes["VmSize"].split()[0]) * 1024 + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    open_session(Path(sys.argv[1]), 1)
except ArtifactError as error:
    print(error.message)
"""


def run(command: list[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_cut_weights_are_named(
    tmp_path: Path, tiny_artifact: Path, keep: int, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_artifact, copy)
    weights = copy / "f32" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    (problem,) = verify_artifact(copy).problems
    assert problem.startswith("f32/model.safetensors: SHA-256 is ")
    with pytest.raises(ArtifactError, match=r"f32/model\.onnx") as caught:
        open_session(copy / "f32" / "model.onnx", 1)
    assert "artifact verify" in caught.value.hint
    assert capfd.readouterr().err == ""


def test_a_runtime_that_is_not_installed_is_a_row_with_its_install_line(
    tiny_artifact: Path,
) -> None:
    targets = "openvino:cpu,onnxruntime:cpu"
    done = run(WITHOUT_OPENVINO, "verify", tiny_artifact, "--targets", targets, "--variants", "f32")
    assert done.returncode == 1
    assert "needs openvino, which is not installed" in done.stdout
    assert "pip install 'fungible[openvino]'" in done.stderr
    assert "onnxruntime:cpu" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--targets", "onnxruntime:cpu", "--variants", "int3"), 2, "no variant 'int3'"),
        (("--targets", "abacus:cpu"), 2, "unknown runtime 'abacus'"),
        (("--targets", "iree:cpu", "--variants", "int4-naive"), 1, "no variant asked for"),
    ],
)
def test_what_the_artifact_or_the_program_lacks(
    tiny_artifact: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    done = run(CLI, "verify", tiny_artifact, *arguments)
    assert done.returncode == status
    assert says in done.stdout + done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_two_builds_at_once_make_one_artifact(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "tiny")
    command = [*CLI, "build", str(source), "--variants", "int8", "--home", str(tmp_path)]
    builds = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [build.communicate(timeout=120) for build in builds]
    assert [build.returncode for build in builds] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    store = ArtifactStore(tmp_path / "artifacts")
    ((path, _),) = store.list()
    assert {one.name for one in store.root.iterdir()} == {".lock", path.name}
    assert verify_artifact(path).ok


def test_a_weight_beyond_float16_is_refused_by_name(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "tiny")
    name = "model.layers.1.mlp.down_proj.weight"
    weights = load_file(source / "model.safetensors")
    weights[name] = weights[name].copy()
    weights[name][0, 0] = np.float32(-70_000)
    save_file(weights, source / "model.safetensors")
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(ArtifactError, match=f"{name} holds 70000, which float16") as caught:
        build_artifact(str(source), store, variants=["f16"])
    assert caught.value.hint == "build bf16 instead of f16"
    assert [path.name for path in store.root.iterdir()] == [".lock"]


@pytest.mark.model
def test_too_little_memory_is_one_clear_error(real_artifact: Path) -> None:
    graph = real_artifact / "f32" / "model.onnx"
    done = run([sys.executable, "-c", OUT_OF_MEMORY], graph, "200000000")
    assert done.stdout == f"{graph}: there is not enough memory to load it\n"
    assert done.stderr == ""
