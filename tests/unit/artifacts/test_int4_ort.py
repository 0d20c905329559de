"""`int4-ort`: no second rounding of 4-bit blocks, and whole zero points for everything else."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from fungible.artifacts.build import build_artifact
from fungible.artifacts.manifest import DEFAULT_VARIANTS, load_manifest
from fungible.artifacts.onnx_ort_weights import whole_zero4
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.tensors import TensorFile
from fungible.artifacts.verify import graph_facts, verify_artifact
from support.tiny_model import build_tiny_artifact, write_tiny_gguf

FAMILIES = Path(__file__).parents[2] / "fixtures" / "families"
VARIANTS = ["int4", "int4-ort"]
FAST = {"MatMulNBits", "GroupQueryAttention", "SkipSimplifiedLayerNormalization"}


def build_gguf(directory: Path, kind: GGMLQuantizationType) -> Path:
    source = write_tiny_gguf(directory / "tiny.gguf", kind=kind)
    return build_artifact(str(source), ArtifactStore(directory / "store"), variants=VARIANTS)


def beside(artifact: Path) -> set[str]:
    """What matrices of the layers have beside their values."""
    regions = TensorFile(artifact / "int4-ort" / "model.safetensors").regions
    return {name.rpartition(".")[2] for name in regions if "_proj" in name} - {"weight"}


def test_stored_blocks_are_kept_bit_for_bit(tmp_path: Path) -> None:
    artifact = build_gguf(tmp_path, GGMLQuantizationType.Q4_1)
    assert beside(artifact) == {"scale", "shift"}
    name = "model.layers.1.mlp.down_proj.weight"
    files = [TensorFile(artifact / variant / "model.safetensors") for variant in VARIANTS]
    portable, fast = ({part: file.read(f"{name}{part}") for part in ("", ".scale", ".shift")}
                      for file in files)  # fmt: skip
    np.testing.assert_array_equal(fast[".shift"], portable[".shift"])
    np.testing.assert_array_equal(fast[".scale"], portable[".scale"].T)
    values = np.stack([fast[""] & 15, fast[""] >> 4], axis=-1).reshape(len(fast[""]), -1)
    packed = portable[""]
    around_zero = np.stack([packed & 15, packed >> 4], axis=-1).reshape(values.shape[::-1]).T
    np.testing.assert_array_equal(values, around_zero ^ 8)


def test_centred_blocks_need_no_shift(tmp_path: Path) -> None:
    artifact = build_gguf(tmp_path, GGMLQuantizationType.Q4_0)
    assert beside(artifact) == {"scale"}
    parity = {name: v.parity for name, v in load_manifest(artifact).variants.items()}
    portable, fast = (parity[name] for name in VARIANTS)
    assert portable is not None
    assert fast is not None
    assert fast.mean_kl == pytest.approx(portable.mean_kl, rel=0.5)


def test_floats_get_whole_zero_points_and_no_second_product(tmp_path: Path) -> None:
    artifact = build_tiny_artifact(tmp_path, variants=VARIANTS)
    assert beside(artifact) == {"scale", "zero"}
    operators = graph_facts(artifact / "int4-ort" / "model.onnx").operators
    assert not {"Gemm", "ReduceSum"} & set(operators)
    parity = {name: v.parity for name, v in load_manifest(artifact).variants.items()}
    portable, fast = (parity[name] for name in VARIANTS)
    assert portable is not None
    assert fast is not None
    assert fast.mean_kl < 1.5 * portable.mean_kl


def test_whole_zero_points_keep_zero_and_stay_within_half_a_step() -> None:
    values = np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32)
    values[0, :32] += 5
    values[1, 32:64] = 0
    values[2, 5] = 0
    q, scale, zero = whole_zero4(values, 32)
    assert (q.min(), q.max()) == (0, 15)
    steps = np.repeat(scale, 32, axis=1)
    opened = steps * (q - np.repeat(zero, 32, axis=1))
    # A whole zero point shifts the levels, so the outermost value may lose another half step.
    assert (np.abs(opened - values) <= 1.01 * steps).all()
    assert np.abs(opened - values).mean() < 0.3 * scale.mean()
    np.testing.assert_array_equal(opened[values == 0], 0)


def test_it_says_what_it_trades(tmp_path: Path) -> None:
    artifact = build_tiny_artifact(tmp_path, variants=VARIANTS)
    assert "int4-ort" not in DEFAULT_VARIANTS
    variant = load_manifest(artifact).variants["int4-ort"]
    assert variant.runtimes == ("onnxruntime",)
    assert all(lost in variant.quantisation for lost in ("openvino", "xla", "iree", "preflight"))
    facts = graph_facts(artifact / "int4-ort" / "model.onnx")
    assert facts.other_domains == ["com.microsoft"]
    assert set(facts.operators) >= FAST
    assert verify_artifact(artifact).ok


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3", "mistral", "phi4"])
def test_families_lose_no_more_than_the_portable_graph(tmp_path: Path, family: str) -> None:
    """Biases, head norms, windows and partly turning heads, which other operators compute."""
    store = ArtifactStore(tmp_path)
    artifact = build_artifact(str(FAMILIES / family), store, variants=VARIANTS)
    parity = {name: v.parity for name, v in load_manifest(artifact).variants.items()}
    portable, fast = (parity[name] for name in VARIANTS)
    assert portable is not None
    assert fast is not None
    assert fast.mean_kl < 1.6 * portable.mean_kl
