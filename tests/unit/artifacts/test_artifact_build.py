"""Building: complete or not at all, found again, and honest about what is in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType
from safetensors.numpy import load_file

from fungible.artifacts.build import build_artifact
from fungible.artifacts.manifest import VARIANTS, content_digest, hash_file, load_manifest
from fungible.artifacts.session import all_logits, open_session
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.verify import graph_facts, verify_artifact
from fungible.errors import ArtifactError
from support.llama_oracle import oracle_logits
from support.tiny_model import (
    CONFIG,
    build_tiny_artifact,
    tiny_weights,
    write_tiny_checkpoint,
    write_tiny_gguf,
)

DISK_FULL = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
from fungible.artifacts.build import build_artifact
from fungible.artifacts.store import ArtifactStore
from fungible.errors import DiskError
try:
    build_artifact(sys.argv[1], ArtifactStore(Path(sys.argv[2])))
except DiskError as error:
    print(error.hint)
    sys.exit(error.exit_code)
"""


def test_the_manifest_describes_exactly_the_files(tiny_artifact: Path) -> None:
    manifest = load_manifest(tiny_artifact)
    files = manifest.all_files()
    on_disk = {
        str(path.relative_to(tiny_artifact))
        for path in tiny_artifact.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert on_disk == set(files)
    assert all(hash_file(tiny_artifact / path) == entry for path, entry in files.items())
    assert manifest.digest == content_digest(files)
    assert tuple(manifest.variants) == VARIANTS
    assert manifest.config == CONFIG
    for variant in manifest.variants.values():
        assert variant.size == sum(entry.size for entry in variant.files.values())


def test_the_weights_are_plain_hugging_face_tensors(tiny_artifact: Path) -> None:
    stored = load_file(tiny_artifact / "f32" / "model.safetensors")
    expected = tiny_weights()
    assert stored.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(stored[name], values)


def test_every_graph_is_standard_and_points_into_its_safetensors_file(tiny_artifact: Path) -> None:
    for variant in VARIANTS:
        path = tiny_artifact / variant / "model.onnx"
        facts = graph_facts(path)
        others = ["com.microsoft"] if variant == "int4-ort" else []
        assert (facts.opset, facts.other_domains) == (23, others)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        external = [t for t in model.graph.initializer if t.external_data]
        assert {{e.key: e.value for e in t.external_data}["location"] for t in external} == {
            "model.safetensors"
        }
        inside = sum(len(t.raw_data) for t in model.graph.initializer if not t.external_data)
        assert inside < 100_000


def test_the_f32_graph_computes_the_model(tiny_artifact: Path) -> None:
    tokens = [1, 50, 60, 70, 260, 12, 12, 270, 3, 2]
    session = open_session(tiny_artifact / "f32" / "model.onnx", 1)
    logits = all_logits(session, CONFIG, np.array(tokens))
    expected = oracle_logits(tiny_weights(), CONFIG, tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 5  # the oracle would see a difference


def test_parity_is_recorded_for_what_was_quantised(tiny_artifact: Path) -> None:
    variants = load_manifest(tiny_artifact).variants
    assert variants["f32"].parity is None
    parity = {name: variants[name].parity for name in VARIANTS[1:]}
    assert all(one is not None and one.tokens == 128 for one in parity.values())
    divergence = {name: one.mean_kl for name, one in parity.items() if one is not None}
    assert 0 < divergence["int8"] < 0.02 < divergence["int4"] < divergence["int4-naive"]
    sizes = [variants[name].size for name in ("int4", "int8", "f32")]
    assert sizes == sorted(sizes)


def test_four_bit_blocks_of_a_gguf_are_kept_exactly(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", kind=GGMLQuantizationType.Q4_1)
    built = build_artifact(str(source), ArtifactStore(tmp_path / "store"), variants=["int4"])
    parity = load_manifest(built).variants["int4"].parity
    assert parity is not None
    # Only activations and the 8-bit table are rounded; requantised weights would be at 0.1 and up.
    assert parity.mean_kl < 0.02
    stored = load_file(built / "int4" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    scale, shift = stored[f"{name}.scale"], stored[f"{name}.shift"]
    packed = stored[name]
    q = np.stack([packed & 15, packed >> 4], axis=1).astype(np.int8).reshape(-1, scale.shape[1])
    q = np.where(q > 7, q - 16, q).astype(np.float32)
    values = np.repeat(scale, 32, axis=0) * q + np.repeat(shift, 32, axis=0)
    weights = load_file(built / "f32" / "model.safetensors")[name]
    np.testing.assert_allclose(values.T, weights, rtol=0, atol=1e-6)


def test_a_second_build_is_found_and_two_builds_are_the_same(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    source = str(write_tiny_checkpoint(tmp_path / "tiny"))
    first = build_artifact(source, store)
    written = (first / "manifest.json").stat().st_mtime_ns
    stages: list[str] = []
    again = build_artifact(
        source, store, progress=lambda stage, _done, _total: stages.append(stage)
    )
    assert again == first
    assert (first / "manifest.json").stat().st_mtime_ns == written
    assert stages == ["hash the checkpoint"]
    other = build_artifact(source, ArtifactStore(tmp_path / "other"))
    assert load_manifest(other).digest == load_manifest(first).digest


def test_progress_runs_from_nothing_to_all_in_every_stage(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    source = str(write_tiny_checkpoint(tmp_path / "tiny"))
    store = ArtifactStore(tmp_path / "store")
    build_artifact(source, store, progress=lambda *at: seen.append(at))
    stages = {stage for stage, _, _ in seen}
    assert {"write f32", "export StableHLO of int8", "write int4-naive", "measure parity"} <= stages
    assert all(0 <= done <= total for _, done, total in seen)
    assert ("measure parity", 4, 4) in seen


def test_only_what_was_asked_for_is_built(tmp_path: Path) -> None:
    path = build_tiny_artifact(tmp_path, variants=["int8"])
    assert list(load_manifest(path).variants) == ["f32", "int8"]
    assert not (path / "int4").exists()
    with pytest.raises(ArtifactError, match="variant 'int3' is not known"):
        build_tiny_artifact(tmp_path, variants=["int3"])


def test_a_damaged_artifact_in_the_store_is_built_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    source = str(write_tiny_checkpoint(tmp_path / "tiny"))
    path = build_artifact(source, store, variants=["f32"])
    (path / "f32" / "model.onnx").unlink()
    assert build_artifact(source, store, variants=["f32"]) == path
    assert (path / "f32" / "model.onnx").exists()
    (path / "manifest.json").write_text("{")
    assert build_artifact(source, store, variants=["f32"]) == path
    assert verify_artifact(path).ok


@pytest.mark.parametrize("limit", [50_000, 400_000])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    """The operating system refuses to write more than `limit` bytes to a file."""
    source = write_tiny_checkpoint(tmp_path / "tiny")
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(source), str(store), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "free some space" in done.stdout
    assert [path.name for path in store.iterdir()] == [".lock"]


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".build-now" / "f32"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    store = ArtifactStore(tmp_path)
    path = build_tiny_artifact(tmp_path, variants=["f32"])
    assert {one.name for one in tmp_path.iterdir()} == {".lock", path.name}
    assert [found for found, _ in store.list()] == [path]


def test_a_bad_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "tiny")
    weights = load_file(source / "model.safetensors")
    path = source / "model.safetensors"
    data = path.read_bytes()
    bad = data.replace(weights["model.norm.weight"].tobytes(), b"\xff" * 4 * CONFIG.hidden)
    assert bad != data
    path.write_bytes(bad)
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(ArtifactError, match="not finite"):
        build_artifact(str(source), store)
    assert [path.name for path in store.root.iterdir()] == [".lock"]


def test_verify_finds_a_flipped_bit(tmp_path: Path, tiny_artifact: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_artifact, copy)
    assert verify_artifact(copy).ok
    path = copy / "int8" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = verify_artifact(copy)
    assert not result.ok
    assert [problem.split(":")[0] for problem in result.problems] == ["int8/model.safetensors"]
    path.unlink()
    assert verify_artifact(copy).problems == ["int8/model.safetensors: the file is missing"]


def test_verify_finds_parity_that_was_claimed_and_not_reached(
    tmp_path: Path, tiny_artifact: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_artifact, copy)
    text = (copy / "manifest.json").read_text()
    parity = load_manifest(copy).variants["int4-naive"].parity
    assert parity is not None
    (copy / "manifest.json").write_text(text.replace(str(parity.mean_kl), "0.001"))
    result = verify_artifact(copy)
    assert not result.ok
    problems = {check.variant: check.problems for check in result.variants}
    assert "the manifest says 0.0010" in problems.pop("int4-naive")[0]
    assert not any(problems.values())


@pytest.mark.model
def test_the_naive_variant_of_the_real_model_is_much_worse(real_artifact: Path) -> None:
    parity = {
        name: variant.parity for name, variant in load_manifest(real_artifact).variants.items()
    }
    naive, int8, int4 = (parity[name] for name in ("int4-naive", "int8", "int4"))
    assert naive is not None
    assert int8 is not None
    assert int4 is not None
    assert max(int8.mean_kl, int4.mean_kl) < 0.02
    assert naive.mean_kl > 0.3
    assert naive.top1_agreement < 0.8 < min(int8.top1_agreement, int4.top1_agreement)
