"""Reading checkpoints: the same model from every format, and one clear error for bad files."""

import contextlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from fungible.artifacts.build import open_checkpoint
from fungible.artifacts.checkpoint import expected_tensors
from fungible.errors import ArtifactError
from support.tiny_model import (
    CONFIG,
    MERGES,
    TOKENS,
    tiny_tokenizer,
    tiny_weights,
    write_tiny_checkpoint,
    write_tiny_gguf,
)

TEXTS = ("The thing is 1234 über\n\n  naïve 猫", "<|im_start|>user\nHi!<|im_end|>\n", "")


def test_a_gguf_and_a_hugging_face_directory_give_the_same_model(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    left = open_checkpoint(str(write_tiny_checkpoint(tmp_path / "tiny-llama")))
    right = open_checkpoint(str(tiny_gguf))
    assert left.config == right.config == CONFIG
    assert left.name == right.name == "tiny-llama"
    assert right.licence == "apache-2.0"
    assert left.chat_template == right.chat_template
    for name in expected_tensors(CONFIG):
        np.testing.assert_array_equal(left.read(name), right.read(name), err_msg=name)


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_of_a_gguf_splits_like_the_original(tiny_gguf: Path, text: str) -> None:
    rebuilt = Tokenizer.from_buffer(open_checkpoint(str(tiny_gguf)).tokenizer_json)
    ids = rebuilt.encode(text, add_special_tokens=False).ids
    assert ids == tiny_tokenizer().encode(text, add_special_tokens=False).ids
    assert rebuilt.decode(ids, skip_special_tokens=False) == text
    assert rebuilt.get_vocab_size() == len(TOKENS)
    assert MERGES  # the vocabulary is not bytes alone


def test_sixteen_bit_weights_are_widened_exactly(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "half")
    weights = tiny_weights()
    save_file({k: v.astype(np.float16) for k, v in weights.items()}, source / "model.safetensors")
    read = open_checkpoint(str(source)).read("model.norm.weight")
    expected = weights["model.norm.weight"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(read, expected)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "brain")
    path = source / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body, offset = b"", 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        halves = np.frombuffer(data[8 + length + start : 8 + length + end], "<u4") >> 16
        body += halves.astype("<u2").tobytes()
        entry |= {"dtype": "BF16", "data_offsets": [offset, len(body)]}
        offset = len(body)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    original = tiny_weights()["model.layers.1.mlp.up_proj.weight"]
    read = open_checkpoint(str(source)).read("model.layers.1.mlp.up_proj.weight")
    np.testing.assert_array_equal(read, (original.view(np.uint32) & 0xFFFF0000).view(np.float32))


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "sharded")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, source / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(str(source))
    for name in names:
        np.testing.assert_array_equal(checkpoint.read(name), weights[name])


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q4_0])
def test_four_bit_blocks_are_the_stored_weights(
    tmp_path: Path, kind: gguf.GGMLQuantizationType
) -> None:
    checkpoint = open_checkpoint(str(write_tiny_gguf(tmp_path / "tiny.gguf", kind=kind)))
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
        tensor = f"model.layers.1.{name}.weight"
        blocks = checkpoint.blocks4(tensor)
        assert blocks is not None
        q = blocks.q.astype(np.float32).reshape(len(blocks.q), -1, 32)
        values = blocks.scale[..., None] * (q - 8) + blocks.shift[..., None]
        np.testing.assert_allclose(
            values.reshape(blocks.q.shape), checkpoint.read(tensor), rtol=0, atol=1e-6
        )
    assert checkpoint.blocks4("model.embed_tokens.weight") is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_gguf_is_refused_wherever_it_is_cut(
    tmp_path: Path, tiny_gguf: Path, share: float
) -> None:
    path = tmp_path / "cut.gguf"
    data = tiny_gguf.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ArtifactError, match=r"cut\.gguf") as caught:
        open_checkpoint(str(path))
    assert caught.value.exit_code == 2


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 12_000), value=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_still_a_model(
    tmp_path: Path, tiny_gguf: Path, at: int, value: int
) -> None:
    path = tmp_path / "damaged.gguf"
    data = bytearray(tiny_gguf.read_bytes())
    data[at] = value
    path.write_bytes(data)
    with contextlib.suppress(ArtifactError):
        checkpoint = open_checkpoint(str(path))
        for name in expected_tensors(checkpoint.config):
            checkpoint.read(name)


def test_the_cut_tensor_is_named(tmp_path: Path, tiny_gguf: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"ends inside tensor output_norm\.weight"):
        open_checkpoint(str(path))


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match="architecture 'mamba'"):
        open_checkpoint(str(path))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "short")
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, source / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        open_checkpoint(str(source))


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "nan")
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][3] = np.nan
    save_file(weights, source / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.norm\.weight is not finite"):
        open_checkpoint(str(source)).read("model.norm.weight")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model_type", "mixtral", "architecture 'mixtral'"),
        ("rope_scaling", {"rope_type": "yarn"}, "rope scaling 'yarn'"),
        ("rope_scaling", {"rope_type": "llama3"}, "rope scaling 'llama3' are malformed"),
        ("hidden_act", "gelu", "hidden_act 'gelu'"),
        ("attention_bias", True, "attention_bias True"),
        ("num_key_value_heads", 3, "cannot be grouped"),
        ("hidden_size", "64", "hidden_size"),
        ("num_hidden_layers", 3, "layers.2.input_layernorm.weight is missing"),
    ],
)
def test_a_configuration_we_cannot_build_is_refused(
    tmp_path: Path, field: str, value: object, says: str
) -> None:
    source = write_tiny_checkpoint(tmp_path / "odd")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ArtifactError, match=says):
        open_checkpoint(str(source))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    source = write_tiny_checkpoint(tmp_path / "part")
    (source / missing).unlink()
    with pytest.raises(ArtifactError, match=missing):
        open_checkpoint(str(source))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf:SmolLM2-135M", "malformed"),
        ("package:no-such-distribution", "is not installed"),
        ("package:click", "0 .gguf files"),
        ("/no/such/model.gguf", "no such file or directory"),
    ],
)
def test_a_source_that_is_not_there_says_what_would_be_accepted(source: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        open_checkpoint(source)


def test_cut_safetensors_are_refused(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "cut")
    path = source / "model.safetensors"
    data = path.read_bytes()
    for length in (0, 5, 300, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=r"model\.safetensors"):
            open_checkpoint(str(source))
