"""Embedding models: read, built, refused; held to what transformers computes."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from fungible.artifacts.build import build_artifact
from fungible.artifacts.encoder_checkpoint import encoder_tensors
from fungible.artifacts.encoder_parity import difference
from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.verify import graph_facts, verify_artifact, verify_on_targets
from fungible.contract.target import Target
from fungible.engine.embeddings import fill
from fungible.engine.runtimes.encoder_base import ENCODERS, open_encoder
from fungible.errors import ArtifactError, InputError
from support.tiny_encoder import (
    CONTEXT,
    FIXTURE,
    NAME,
    WIDTH,
    apart,
    build,
    edit,
    expected,
    texts,
    token_rows,
    write_checkpoint,
)

Change = Callable[[Path], object]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / NAME)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    return build(write_checkpoint(directory / NAME), directory / "store")


def _change_weights(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def _only(directory: Path, *kinds: str) -> None:
    """Keep these modules."""
    modules = json.loads((directory / "modules.json").read_text())
    kept = [one for one in modules if one["type"].rpartition(".")[2] in kinds]
    (directory / "modules.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("activation", "pooling"),
    [("gelu", "mean"), ("gelu", "cls"), ("gelu_new", "mean"), ("relu", "mean")],
)
def test_embeddings_are_those_of_transformers(
    source: Path, tmp_path: Path, activation: str, pooling: str
) -> None:
    edit(source / "config.json", hidden_act=activation)
    if pooling == "cls":
        _only(source, "Transformer", "Pooling")
        file = source / "1_Pooling" / "config.json"
        edit(file, pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    built = build(source, tmp_path / "store")
    for runtime in ENCODERS:
        encoder = open_encoder(built, "f32", Target(runtime), threads=1)
        found = encoder.encode(*fill(token_rows()))
        encoder.close()
        assert apart(found, expected()[f"{activation}.{pooling}"]) < 1e-5, runtime


def test_the_manifest_says_what_was_built(artifact: Path) -> None:
    manifest = load_manifest(artifact)
    assert (manifest.name, manifest.kind, manifest.config.family) == (NAME, "encoder", "bert")
    assert (manifest.config.hidden, manifest.config.context) == (WIDTH, CONTEXT)
    assert manifest.encoder is not None
    assert (manifest.encoder.pooling, manifest.encoder.normalise) == ("mean", True)
    assert manifest.variants["f32"].runtimes == ("onnxruntime", "openvino", "xla")
    assert set(manifest.variants) == {"f32"}


def test_the_graph_is_portable_and_holds_no_weights(artifact: Path) -> None:
    facts = graph_facts(artifact / "f32" / "model.onnx")
    assert (facts.opset, facts.other_domains) == (23, [])
    model = onnx.load(artifact / "f32" / "model.onnx", load_external_data=False)
    assert [value.name for value in model.graph.input] == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]
    outside = [one for one in model.graph.initializer if one.data_location == 1]
    manifest = load_manifest(artifact)
    assert manifest.encoder is not None
    shapes = encoder_tensors(manifest.config, manifest.encoder).values()
    stored = sum(int(np.prod(one.dims)) for one in outside)
    assert stored == sum(int(np.prod(shape)) for shape in shapes)
    onnx.checker.check_model(str(artifact / "f32" / "model.onnx"))


def test_both_graphs_say_the_same(artifact: Path) -> None:
    assert difference(artifact, load_manifest(artifact), "f32") < 1e-5


def test_words_are_split_as_transformers_does(artifact: Path) -> None:
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    assert [one.ids for one in tokenizer.encode_batch(texts())] == token_rows()


def test_a_tokenizer_file_is_kept_but_for_its_padding(
    source: Path, artifact: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    tokenizer.enable_padding(length=30)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(source / "tokenizer.json"))
    (source / "vocab.txt").unlink()
    built = build(source, tmp_path / "store")
    found = Tokenizer.from_file(str(built / "tokenizer.json"))
    assert [one.ids for one in found.encode_batch(texts())] == token_rows()


def test_names_of_pre_training_and_of_tensorflow_are_read(
    source: Path, artifact: Path, tmp_path: Path
) -> None:
    def rename(weights: dict[str, Any]) -> None:
        for name in list(weights):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            old = old.replace("LayerNorm.bias", "LayerNorm.beta")
            weights[f"bert.{old}"] = weights.pop(name)
        weights["bert.embeddings.position_ids"] = np.arange(48)[None]
        weights["cls.predictions.bias"] = np.zeros(3, np.float32)

    _change_weights(source, rename)
    built = build(source, tmp_path / "store")
    assert load_manifest(built).digest == load_manifest(artifact).digest


def test_without_modules_the_mean_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    (source / "modules.json").unlink()
    (source / "sentence_bert_config.json").unlink()
    manifest = load_manifest(build(source, tmp_path / "store"))
    assert manifest.encoder is not None
    assert (manifest.encoder.pooling, manifest.encoder.normalise) == ("mean", False)
    assert manifest.config.context == 48


def test_a_second_build_finds_the_first(source: Path, tmp_path: Path) -> None:
    first = build(source, tmp_path / "store")
    written = (first / "manifest.json").stat().st_mtime_ns
    assert build(source, tmp_path / "store") == first
    assert (first / "manifest.json").stat().st_mtime_ns == written


REFUSED: list[tuple[str, Change, str]] = [
    ("another family", lambda at: edit(at / "config.json", model_type="roberta"), "'roberta'"),
    ("activation", lambda at: edit(at / "config.json", hidden_act="silu"), "hidden_act 'silu'"),
    ("heads", lambda at: edit(at / "config.json", num_attention_heads=5), "not a multiple"),
    ("zero layers", lambda at: edit(at / "config.json", num_hidden_layers=0), "num_hidden_layers"),
    (
        "relative positions",
        lambda at: edit(at / "config.json", position_embedding_type="relative_key"),
        "relative_key",
    ),
    (
        "two poolings",
        lambda at: edit(at / "1_Pooling" / "config.json", pooling_mode_max_tokens=True),
        "pooling",
    ),
    ("no pooling", lambda at: _only(at, "Transformer", "Normalize"), "modules"),
    ("no weights", lambda at: (at / "model.safetensors").unlink(), "model.safetensors"),
    ("no words", lambda at: (at / "vocab.txt").unlink(), "vocab.txt"),
    (
        "too many words",
        lambda at: (at / "vocab.txt").write_text(
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "\n".join(f"w{i}" for i in range(60))
        ),
        "embeddings",
    ),
    (
        "a missing tensor",
        lambda at: _change_weights(
            at, lambda weights: weights.pop("encoder.layer.1.output.dense.bias")
        ),
        "encoder.layer.1.output.dense.bias is missing",
    ),
    (
        "an adapter",
        lambda at: _change_weights(
            at, lambda weights: weights.update({"adapter.weight": np.zeros(2, np.float32)})
        ),
        "adapter.weight",
    ),
    (
        "few positions",
        lambda at: _change_weights(
            at,
            lambda weights: weights.update(
                {"embeddings.position_embeddings.weight": np.zeros((8, 32), np.float32)}
            ),
        ),
        "position_embeddings",
    ),
    (
        "not a number",
        lambda at: _change_weights(
            at, lambda weights: weights["encoder.layer.0.output.dense.bias"].fill(np.nan)
        ),
        "not finite",
    ),
]


@pytest.mark.parametrize(
    ("change", "said"), [one[1:] for one in REFUSED], ids=[o[0] for o in REFUSED]
)
def test_what_cannot_be_built_is_refused_and_leaves_nothing(
    source: Path, tmp_path: Path, change: Change, said: str
) -> None:
    change(source)
    with pytest.raises(ArtifactError, match=said):
        build(source, tmp_path / "store")
    assert not list((tmp_path / "store").glob("*/*"))


def test_other_precisions_are_refused(source: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(ArtifactError, match="'int8' is not built for embedding models"):
        build_artifact(str(source), store, variants=["f32", "int8"])


def test_verify_compares_files_and_graphs(artifact: Path, tmp_path: Path) -> None:
    assert verify_artifact(artifact).ok
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    weights = copy / "f32" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = verify_artifact(copy)
    assert not found.ok
    assert "model.safetensors" in found.problems[0]


def test_verify_on_targets_is_for_text_generation(artifact: Path) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    with pytest.raises(InputError, match="embedding model"):
        verify_on_targets(artifact, [Target("xla")], [], score=never)


def test_a_runtime_without_encoders_is_refused(artifact: Path) -> None:
    with pytest.raises(InputError, match="iree:cpu does not run embedding models"):
        open_encoder(artifact, "f32", Target("iree"), threads=1)


@pytest.mark.oracle
def test_transformers_still_says_what_the_fixture_says(tmp_path: Path) -> None:
    python = os.environ.get("FUNGIBLE_ORACLE_PYTHON")
    if not python:
        pytest.skip("FUNGIBLE_ORACLE_PYTHON names no interpreter with torch and transformers")
    tool = FIXTURE.parents[2] / "tools" / "make_encoder_oracle.py"
    subprocess.run([python, str(tool), str(tmp_path)], check=True)
    fresh = load_file(tmp_path / "expected.safetensors")
    assert fresh.keys() == expected().keys()
    for name, values in expected().items():
        assert apart(fresh[name], values) < 1e-5, name
