"""Every family of checkpoints gives the logits that transformers gives, in every runtime."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fungible.artifacts.build import build_artifact, open_checkpoint
from fungible.artifacts.huggingface_config import read_config
from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.store import ArtifactStore
from fungible.contract.target import parse_target
from fungible.engine.runtimes.base import Runtime
from fungible.engine.runtimes.registry import open_runtime
from fungible.errors import ArtifactError

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "families"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3", "phi4")
# What XLA and ONNX Runtime may differ in from torch by the order of their sums.
CLOSE = 1e-4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("families"))


def built(store: ArtifactStore, name: str) -> Path:
    variants = ("f32", "int8", "int4") if name in ("qwen2", "gemma3") else ("f32",)
    return build_artifact(str(FIXTURES / name), store, variants=variants)


def answers(runtime: Runtime, prompt: NDArray[np.int64], count: int) -> tuple[object, list[int]]:
    """Logits after each token of the prompt read in two pieces, then greedy tokens."""
    head = runtime.score(0, prompt[:5])
    tail = runtime.score(0, prompt[5:])
    tokens = [int(tail[-1].argmax())]
    # A second, shorter row pads the past of the first.
    runtime.prefill(1, prompt[:3])
    while len(tokens) < count:
        logits = runtime.decode([1, 0], np.array([3, tokens[-1]]))
        tokens.append(int(logits[1].argmax()))
    return np.concatenate([head, tail]), tokens


# Compiling costs seconds, so XLA sees each trait once: the other families are made of the same.
@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "onnxruntime:cpu") for name in FAMILIES),
        *((name, "openvino:cpu") for name in ("qwen2", "gemma3", "phi4")),
        *((name, "xla:cpu") for name in ("qwen2", "gemma3", "phi4")),
    ],
)
def test_a_family_answers_as_transformers_does(
    store: ArtifactStore, name: str, target: str
) -> None:
    oracle = load_file(FIXTURES / name / "oracle.safetensors")
    runtime = open_runtime(
        built(store, name), "f32", parse_target(target), slots=2, context=40, threads=1
    )
    try:
        logits, greedy = answers(runtime, oracle["prompt"], len(oracle["greedy"]))
    finally:
        runtime.close()
    np.testing.assert_allclose(logits, oracle["logits"], rtol=0, atol=CLOSE)
    assert greedy == oracle["greedy"].tolist()


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_biases_and_norms_survive_quantisation(store: ArtifactStore, name: str) -> None:
    parity = {k: v.parity for k, v in load_manifest(built(store, name)).variants.items()}
    assert parity["int8"] is not None
    assert parity["int8"].mean_kl < 0.05
    assert parity["int4"] is not None
    assert parity["int4"].mean_kl < 1.0


@pytest.mark.parametrize("name", FAMILIES)
def test_the_configuration_that_we_write_reads_back_as_the_same(
    store: ArtifactStore, name: str
) -> None:
    artifact = built(store, name)
    config = load_manifest(artifact).config
    again = read_config(json.loads((artifact / "config.json").read_text()), "config.json")
    family = again.family
    assert family == {"phi3": "mistral", "phi4": "phi3"}.get(name, config.family)
    assert msgspec.structs.replace(again, family=config.family) == config


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("mixtral", "mixture-of-experts"),
        ("gemma3n", "per-layer embeddings"),
        ("deepseek_v3", "latent attention"),
        ("gemma2", "soft capping"),
        ("something_new", "'something_new' is not supported"),
    ],
)
def test_another_family_is_refused_by_name_with_what_is_missing(
    tmp_path: Path, model_type: str, says: str
) -> None:
    config = json.loads((FIXTURES / "llama" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    with pytest.raises(ArtifactError, match=says) as caught:
        open_checkpoint(str(tmp_path))
    assert model_type in str(caught.value)


@pytest.mark.oracle
def test_transformers_still_says_what_the_fixtures_say(
    store: ArtifactStore, tmp_path: Path
) -> None:
    python = os.environ.get("FUNGIBLE_ORACLE_PYTHON")
    if not python:
        pytest.skip("FUNGIBLE_ORACLE_PYTHON names no interpreter with torch and transformers")
    tool = str(ROOT / "tools" / "make_family_oracles.py")
    subprocess.run([python, tool, str(tmp_path)], check=True, capture_output=True, timeout=200)
    for name in FAMILIES:
        fresh = load_file(tmp_path / name / "oracle.safetensors")
        kept = load_file(FIXTURES / name / "oracle.safetensors")
        np.testing.assert_allclose(fresh["logits"], kept["logits"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(fresh["greedy"], kept["greedy"])


def test_a_long_context_computes_its_sines_to_the_same_answers(
    store: ArtifactStore, tmp_path: Path
) -> None:
    source = tmp_path / "long"
    shutil.copytree(FIXTURES / "gemma3", source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40_000}))
    artifact = build_artifact(str(source), store, variants=("f32",))
    assert (artifact / "f32" / "model.onnx").stat().st_size < 200_000
    oracle = load_file(FIXTURES / "gemma3" / "oracle.safetensors")
    target = parse_target("onnxruntime:cpu")
    runtime = open_runtime(artifact, "f32", target, slots=1, context=64, threads=1)
    try:
        logits = runtime.score(0, oracle["prompt"])
    finally:
        runtime.close()
    np.testing.assert_allclose(logits, oracle["logits"], rtol=0, atol=CLOSE)
