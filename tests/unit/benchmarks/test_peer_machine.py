"""What a token must read, and the formats that peers get the weights in."""

from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest

from fungible.artifacts.tensors import TensorFile
from peers.checkpoints import checkpoint, round_to_bf16
from peers.machine import bytes_per_token, weight_bytes
from support.tiny_model import (
    CONFIG,
    build_tiny_artifact,
    tiny_weights,
    write_tiny_gguf,
)

PARAMETERS = sum(values.size for values in tiny_weights().values())


def test_a_tied_embedding_is_read_as_the_head_and_a_separate_one_is_not(tmp_path: Path) -> None:
    artifact = build_tiny_artifact(tmp_path, variants=("f32", "int8"))
    assert weight_bytes(artifact / "f32" / "model.safetensors") == 4 * PARAMETERS
    # int8 stores the head apart from the table that is looked up.
    path = artifact / "int8" / "model.safetensors"
    regions = TensorFile(path).regions
    table = sum(region.length for name, region in regions.items() if "embed_tokens" in name)
    assert weight_bytes(path) == sum(region.length for region in regions.values()) - table
    assert table > 0


def test_the_cache_of_the_tokens_before_is_read_too() -> None:
    path = Path(__file__)  # never opened: the suffix is refused first
    with pytest.raises(ValueError, match="cannot count"):
        bytes_per_token(path, CONFIG, 10, 4)


def test_bytes_per_token_adds_keys_and_values_of_the_context(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    element = 2 * CONFIG.layers * CONFIG.kv_heads * CONFIG.head_dim
    assert bytes_per_token(path, CONFIG, 100, 2) == weight_bytes(path) + element * 100 * 2


def test_gguf_copies_keep_metadata_tensors_and_their_values(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", kind=gguf.GGMLQuantizationType.Q4_1)
    artifact = build_tiny_artifact(tmp_path / "store", variants=("f32",))
    path = checkpoint("gguf-f32", str(source), artifact, tmp_path / "models")
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(path)
    skipped = {"GGUF.kv_count", "general.file_type"}
    assert set(before.fields) - set(after.fields) <= skipped
    tokens = "tokenizer.ggml.tokens"
    assert before.fields[tokens].contents() == after.fields[tokens].contents()
    assert [t.name for t in before.tensors] == [t.name for t in after.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert new.tensor_type == gguf.GGMLQuantizationType.F32
        np.testing.assert_array_equal(gguf.quants.dequantize(old.data, old.tensor_type), new.data)


def test_a_hugging_face_directory_in_bf16_holds_the_rounded_weights(tmp_path: Path) -> None:
    artifact = build_tiny_artifact(tmp_path / "store", variants=("f32",))
    path = checkpoint("hf-bf16", "unused", artifact, tmp_path / "models")
    stored, exact = TensorFile(path / "model.safetensors"), tiny_weights()
    assert set(stored.regions) == set(exact)
    for name, values in exact.items():
        assert stored.regions[name].spec.dtype == "BF16"
        raw = (path / "model.safetensors").read_bytes()
        start = stored.regions[name].offset
        bits = np.frombuffer(raw, np.uint16, values.size, start)
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
        np.testing.assert_array_equal(bits.reshape(values.shape), expected)
    assert checkpoint("hf-bf16", "unused", artifact, tmp_path / "models") == path


def test_rounding_to_bf16_is_to_nearest_even() -> None:
    values = np.array([1.0, -2.5, 3.0e-39, 1.00390625, 1.01171875, 3.3e38], np.float32)
    expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(round_to_bf16(values), expected)
