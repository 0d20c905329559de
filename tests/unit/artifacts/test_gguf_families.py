"""GGUF files of every family that is read from them give the logits that transformers gives."""

import contextlib
import json
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from fungible.artifacts.build import build_artifact, open_checkpoint
from fungible.artifacts.checkpoint import expected_tensors
from fungible.artifacts.huggingface_config import read_config
from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.rotary import frequencies
from fungible.artifacts.store import ArtifactStore
from fungible.contract.target import parse_target
from fungible.engine.runtimes.registry import open_runtime
from fungible.errors import ArtifactError
from support.family_gguf import write_family_gguf

FIXTURES = Path(__file__).parents[2] / "fixtures" / "families"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3", "phi4")
Kind = gguf.GGMLQuantizationType


def logits(artifact: Path, prompt: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits after each token of the prompt, read in two pieces."""
    target = parse_target("onnxruntime:cpu")
    runtime = open_runtime(artifact, "f32", target, slots=1, context=40, threads=1)
    try:
        return np.concatenate([runtime.score(0, prompt[:5]), runtime.score(0, prompt[5:])])
    finally:
        runtime.close()


def build(tmp_path: Path, path: Path) -> Path:
    return build_artifact(str(path), ArtifactStore(tmp_path / "store"), variants=("f32",))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gguf_answers_as_transformers_does(tmp_path: Path, name: str) -> None:
    path = write_family_gguf(FIXTURES / name, tmp_path / "tiny.gguf")
    artifact = build(tmp_path, path)
    oracle = load_file(FIXTURES / name / "oracle.safetensors")
    found = logits(artifact, oracle["prompt"])
    np.testing.assert_allclose(found, oracle["logits"], rtol=0, atol=1e-4)
    # What is written beside the weights describes them, too.
    again = read_config(json.loads((artifact / "config.json").read_text()), "config.json")
    config = load_manifest(artifact).config
    assert msgspec.structs.replace(again, family=config.family) == config


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gguf_is_read_as_the_model_of_its_directory(tmp_path: Path, name: str) -> None:
    path = write_family_gguf(FIXTURES / name, tmp_path / "tiny.gguf")
    left, right = open_checkpoint(str(FIXTURES / name)), open_checkpoint(str(path))
    for tensor in expected_tensors(left.config):
        # Gemma's norms went through 1 + w, in float32.
        np.testing.assert_allclose(
            right.read(tensor), left.read(tensor), rtol=0, atol=1e-7, err_msg=tensor
        )
    np.testing.assert_allclose(frequencies(right.config), frequencies(left.config), rtol=1e-6)
    assert right.config.score_scale == pytest.approx(left.config.score_scale)
    assert without_floats(right.config) == without_floats(left.config)


def without_floats(config: ModelConfig) -> ModelConfig:
    """Without what GGUF holds in float32, or in another form."""
    return msgspec.structs.replace(config, rope_scaling=None, attention_scale=None)


# Fused matrices, permuted rows and plain ones, in 8 and in 4 bits.
@pytest.mark.parametrize(
    ("name", "kind"),
    [("phi4", Kind.Q8_0), ("gemma3", Kind.Q8_0), ("llama", Kind.Q4_1), ("phi3", Kind.Q4_1)],
)
def test_quantised_weights_are_near_the_original(tmp_path: Path, name: str, kind: Kind) -> None:
    path = write_family_gguf(FIXTURES / name, tmp_path / "tiny.gguf", kind=kind)
    checkpoint, original = open_checkpoint(str(path)), open_checkpoint(str(FIXTURES / name))
    step = 1 / 127 if kind == Kind.Q8_0 else 1 / 15
    for tensor, shape in expected_tensors(original.config).items():
        if len(shape) == 1 or "proj" not in tensor:
            continue
        exact, read = original.read(tensor), checkpoint.read(tensor)
        assert np.abs(exact - read).max() <= 0.6 * step * 2 * np.abs(exact).max(), tensor
        blocks = checkpoint.blocks4(tensor)
        assert (blocks is not None) == (kind == Kind.Q4_1)
        if blocks is not None:
            q = blocks.q.astype(np.float32).reshape(shape[0], -1, 32)
            values = blocks.scale[..., None] * (q - 8) + blocks.shift[..., None]
            np.testing.assert_allclose(values.reshape(shape), read, rtol=0, atol=1e-6)
    if kind == Kind.Q8_0:
        oracle = load_file(FIXTURES / name / "oracle.safetensors")
        found = logits(build(tmp_path, path), oracle["prompt"])
        assert 1e-4 < np.abs(found - oracle["logits"]).mean() < 0.1


@pytest.mark.parametrize("text", ["Hello, world!", "  two  spaces\nand a line", "", "a"])
def test_letters_of_a_gguf_are_those_of_the_tokenizer_json(tmp_path: Path, text: str) -> None:
    path = write_family_gguf(FIXTURES / "gemma3", tmp_path / "tiny.gguf")
    rebuilt = Tokenizer.from_buffer(open_checkpoint(str(path)).tokenizer_json)
    original = Tokenizer.from_file(str(FIXTURES / "gemma3" / "tokenizer.json"))
    assert rebuilt.encode(text).ids == original.encode(text).ids
    assert rebuilt.decode(rebuilt.encode(text).ids) == text


def with_key(tmp_path: Path, name: str, key: str, value: object) -> Path:
    """The fixture as a GGUF file whose metadata `key` is `value`."""
    whole = write_family_gguf(FIXTURES / name, tmp_path / "whole.gguf")
    reader = gguf.GGUFReader(whole)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", arch)
    kept = {field: found for field, found in reader.fields.items() if "GGUF." not in field}
    for field, found in kept.items():
        if field not in (key, "general.architecture"):
            sub_type = found.types[-1] if len(found.types) > 1 else None
            writer.add_key_value(field, found.contents(), found.types[0], sub_type)
    kinds = {
        str: gguf.GGUFValueType.STRING,
        int: gguf.GGUFValueType.UINT32,
        float: gguf.GGUFValueType.FLOAT32,
        bool: gguf.GGUFValueType.BOOL,
    }
    writer.add_key_value(key, value, kinds[type(value)])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "odd.gguf"


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("qwen2", "qwen2.rope.scaling.type", "yarn", "rope scaling 'yarn' is not supported"),
        ("phi3", "phi3.rope.scaling.factor", 2.0, "rope scaling 'linear' is not supported"),
        ("gemma3", "gemma3.final_logit_softcapping", 30.0, "final_logit_softcapping 30.0"),
        ("llama", "llama.expert_count", 8, "mixture-of-experts layers"),
        ("qwen3", "qwen3.attention.value_length", 8, "keys of width 16 with values of width 8"),
        ("qwen3", "qwen3.attention.head_count_kv", 1, "attn_k.weight has shape"),
        ("mistral", "llama.block_count", 3, "blk.2.attn_norm.weight is missing"),
        ("mistral", "tokenizer.ggml.model", "t5", "tokenizer 't5'"),
        ("phi4", "phi3.rope.dimension_count", 8, "rope_factors_short.weight has shape"),
    ],
)
def test_a_gguf_that_we_cannot_build_is_refused(
    tmp_path: Path, name: str, key: str, value: object, says: str
) -> None:
    with pytest.raises(ArtifactError, match=r"odd\.gguf") as caught:
        open_checkpoint(str(with_key(tmp_path, name, key, value)))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("qwen3moe", "mixture-of-experts"),
        ("gemma2", "soft capping"),
        ("deepseek2", "latent attention"),
        ("something-new", "'something-new' is not supported"),
    ],
)
def test_another_gguf_architecture_is_refused_by_name_with_what_is_missing(
    tmp_path: Path, architecture: str, says: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match=says) as caught:
        open_checkpoint(str(tmp_path / "other.gguf"))
    assert architecture in str(caught.value)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fused") / "tiny.gguf"
    return write_family_gguf(FIXTURES / "phi4", path).read_bytes()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 6_000), value=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_still_a_model(
    tmp_path: Path, fused: bytes, at: int, value: int
) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(fused[:at] + bytes([value]) + fused[at + 1 :])
    with contextlib.suppress(ArtifactError):
        checkpoint = open_checkpoint(str(path))
        for name in expected_tensors(checkpoint.config):
            checkpoint.read(name)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_cut_file_is_refused(tmp_path: Path, fused: bytes, share: float) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(fused[: int(len(fused) * share)])
    with pytest.raises(ArtifactError, match=r"cut\.gguf"):
        open_checkpoint(str(path))
