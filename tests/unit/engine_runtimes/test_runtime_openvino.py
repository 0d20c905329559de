"""What is peculiar to OpenVINO; what it shares with other runtimes is in the conformance suite."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fungible.contract.target import parse_target
from fungible.engine.runtimes.registry import open_runtime
from fungible.errors import ArtifactError, InputError, UnavailableError
from support.runtimes import installed, open_or_skip, some_tokens
from support.tiny_model import build_tiny_artifact

pytestmark = pytest.mark.skipif(not installed("openvino"), reason="openvino is not installed")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=["f32", "int8", "int4"])


@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_stored_precisions_compute_what_onnx_runtime_computes(artifact: Path, variant: str) -> None:
    text, logits = some_tokens(12), {}
    for name in ("onnxruntime", "openvino"):
        runtime = open_or_skip(artifact, name, variant)
        runtime.prefill(0, text[:-1])
        logits[name] = runtime.decode([0], text[-1:])
        runtime.close()
    np.testing.assert_allclose(logits["openvino"], logits["onnxruntime"], atol=1e-3)


def test_float32_stays_float32_on_a_cpu_with_bfloat16(artifact: Path) -> None:
    runtime = open_or_skip(artifact, "openvino")
    model = runtime._request.get_compiled_model()  # type: ignore[attr-defined]
    precision = model.get_property("INFERENCE_PRECISION_HINT")
    threads = model.get_property("INFERENCE_NUM_THREADS")
    runtime.close()
    assert precision.to_string() == "f32"
    assert threads == 2


def test_nothing_is_reported_to_its_maker() -> None:
    """A fresh interpreter, as the package may have been imported here by someone else."""
    program = (
        "import sys, fungible.engine.runtimes.openvino\n"
        "assert 'openvino.tools.ovc.telemetry_stub' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", ["npu", "gpu:7"])
def test_an_absent_device_says_what_is_there(artifact: Path, device: str) -> None:
    target = parse_target(f"openvino:{device}")
    with pytest.raises(UnavailableError, match=f"{target}: .*only .*cpu") as absent:
        open_runtime(artifact, "f32", target, slots=1, context=8, threads=1)
    assert "openvino:cpu" in str(absent.value.hint)


def test_a_device_that_openvino_does_not_have_is_refused(artifact: Path) -> None:
    with pytest.raises(InputError, match="openvino:tpu") as refused:
        open_runtime(artifact, "f32", parse_target("openvino:tpu"), slots=1, context=8, threads=1)
    assert "openvino:npu" in str(refused.value.hint)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_file_that_is_cut_off_is_told(artifact: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(artifact, broken)
    path = broken / "f32" / name
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=r"f32/model\.onnx: OpenVINO cannot load it: \w+"):
        open_or_skip(broken, "openvino")
