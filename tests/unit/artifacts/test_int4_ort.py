"""`int4-ort`: no second rounding of 4-bit blocks, and whole zero points for everything else."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from fungible.artifacts import onnx_ort_weights
from fungible.artifacts.build import build_artifact
from fungible.artifacts.manifest import DEFAULT_VARIANTS, load_manifest
from fungible.artifacts.onnx_ort_weights import shifted4, whole_zero4
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


def test_stored_blocks_are_kept_bit_for_bit_and_their_shifts_closely(tmp_path: Path) -> None:
    artifact = build_gguf(tmp_path, GGMLQuantizationType.Q4_1)
    assert beside(artifact) == {"scale", "zero"}
    name = "model.layers.1.mlp.down_proj.weight"
    portable, fast = (TensorFile(artifact / each / "model.safetensors") for each in VARIANTS)
    scale, shift = (portable.read(f"{name}.{part}").T for part in ("scale", "shift"))
    blocks = scale.shape[1]
    values = opened4(fast.read(name))
    packed = portable.read(name)
    around_zero = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, len(values)).T
    np.testing.assert_array_equal(values[:, : 32 * blocks], around_zero ^ 8)
    scales = fast.read(f"{name}.scale")
    np.testing.assert_array_equal(scales[:, :blocks], scale)
    zero = opened4(fast.read(f"{name}.zero"))[:, : scales.shape[1]]
    left = (values - np.repeat(zero.astype(int), 32, axis=1)) * np.repeat(scales, 32, axis=1)
    first, second = np.split(left[:, 32 * blocks :], 2, axis=1)
    kept = scale * (8 - zero[:, :blocks].astype(int)) + (first + second)[:, :blocks]
    assert np.abs(kept - shift).max() < 0.01 * scale.max()
    parity = {each: v.parity for each, v in load_manifest(artifact).variants.items()}
    exact_shift, folded = (parity[each] for each in VARIANTS)
    assert exact_shift is not None
    assert folded is not None
    assert folded.mean_kl < 1.1 * exact_shift.mean_kl


def opened4(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two values from each byte, row by row."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def test_shifts_far_from_the_levels_are_kept() -> None:
    generator = np.random.default_rng(0)
    q = generator.integers(0, 16, (4, 96)).astype(np.int8)
    scale = generator.uniform(0.5, 1, (4, 3)).astype(np.float32)
    shift = generator.uniform(-30, 30, (4, 3)).astype(np.float32)
    scale[1, 2] = 0
    more, scales, zero = shifted4(q, scale, shift)
    assert more.shape == (4, 96 + 64)
    x = generator.standard_normal(96).astype(np.float32)
    sums = np.pad(x.reshape(3, 32).sum(axis=1), (0, 29))
    rows = np.repeat(scales, 32, axis=1) * (more - np.repeat(zero, 32, axis=1))
    exact = np.repeat(scale, 32, axis=1) * (q - 8.0) + np.repeat(shift, 32, axis=1)
    np.testing.assert_allclose(rows @ np.concatenate([x, sums, sums]), exact @ x, atol=3)
    # The error of a shift is at most a 196th of the largest that is left in its row.
    left = np.abs(shift - scale * (8 - zero[:, :3])).max()
    kept = scale * (8 - zero[:, :3]) + rows[:, 96:99] + rows[:, 128:131]
    assert np.abs(kept - shift).max() <= 1.01 * left / 196


def test_long_rows_are_summed_without_a_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_ort_weights, "_LARGEST_SUMMING", 0)
    artifact = build_gguf(tmp_path, GGMLQuantizationType.Q4_1)
    operators = graph_facts(artifact / "int4-ort" / "model.onnx").operators
    assert "MatMul" not in operators
    assert operators["ReduceSum"]
    parity = load_manifest(artifact).variants["int4-ort"].parity
    assert parity is not None
    monkeypatch.undo()
    (tmp_path / "matrix").mkdir()
    other = build_gguf(tmp_path / "matrix", GGMLQuantizationType.Q4_1)
    same = load_manifest(other).variants["int4-ort"].parity
    assert same is not None
    assert parity.mean_kl == pytest.approx(same.mean_kl, rel=0.2)


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
    assert not {"MatMul", "ReduceSum"} & set(operators)
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
