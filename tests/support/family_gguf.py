"""The tiny checkpoints of `tests/fixtures/families` as the GGUF files that llama.cpp would make.

What goes where follows llama.cpp's `convert_hf_to_gguf.py`, written anew from what it does. Two
keys are there that it leaves out for some architectures, because the fixtures differ from every
released model in them: windows of Mistral and Qwen, and Gemma's scale of attention scores.
"""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from gguf.tensor_mapping import get_tensor_name_map
from numpy.typing import NDArray
from safetensors.numpy import load_file

F32 = gguf.GGMLQuantizationType.F32
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
}
NORMAL, UNKNOWN = 1, 2
# A letter that gives up its place for the unknown token, which SentencePiece demands.
LOST = "~"


def write_family_gguf(source: Path, path: Path, *, kind: gguf.GGMLQuantizationType = F32) -> Path:
    """Write the Hugging Face directory `source` to `path`; linear weights are stored as `kind`."""
    config = json.loads((source / "config.json").read_text())
    arch = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    _add_shape(writer, config, head_dim)
    _add_windows(writer, config)
    _add_rotary(writer, config, head_dim)
    _add_letters(writer, source / "tokenizer.json")
    names = get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, half in load_file(source / "model.safetensors").items():
        values = _as_stored(name, half.astype(np.float32), config)
        packed = kind != F32 and "proj" in name and values.ndim > 1
        data = quantize(values, kind) if packed else values
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(stored, data, raw_dtype=kind if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any], head_dim: int) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    if "head_dim" in config:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if "query_pre_attn_scalar" in config:
        writer.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)


def _add_windows(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_sliding_window(config.get("sliding_window") or 0)
    if "layer_types" in config:
        writer.add_sliding_window_pattern(
            [kind == "sliding_attention" for kind in config["layer_types"]]
        )


def _add_rotary(writer: gguf.GGUFWriter, config: dict[str, Any], head_dim: int) -> None:
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    turning = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if config["model_type"] in ("llama", "mistral", "phi3"):
        writer.add_rope_dimension_count(turning)
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, head_dim))
    elif kind == "longrope":
        original = rope["original_max_position_embeddings"]
        grown = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(grown) / math.log(original)))
        for length in ("short", "long"):
            factors = np.array(rope[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)


def _llama3_factors(rope: dict[str, Any], head_dim: int) -> NDArray[np.float32]:
    """What each frequency is divided by; slow ones by all of the factor, fast ones not at all."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for pair in range(head_dim // 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (2 * pair / head_dim)
        turns = rope["original_max_position_embeddings"] / wave
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / (kept + (1 - kept) / rope["factor"]))
    return np.array(factors, np.float32)


def _add_letters(writer: gguf.GGUFWriter, tokenizer: Path) -> None:
    """One token per letter, as SentencePiece spells them."""
    vocab = json.loads(tokenizer.read_text())["model"]["vocab"]
    letters = sorted(vocab, key=lambda letter: int(vocab[letter]))
    tokens = [{" ": "\u2581", LOST: "<unk>"}.get(letter, letter) for letter in letters]
    writer.add_tokenizer_model("llama")
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(False)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(at) for at in range(len(tokens))])
    writer.add_token_types([UNKNOWN if token == "<unk>" else NORMAL for token in tokens])


def _as_stored(
    name: str, values: NDArray[np.float32], config: dict[str, Any]
) -> NDArray[np.float32]:
    if config["model_type"] == "gemma3_text" and name.endswith("norm.weight"):
        return values + np.float32(1)
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }.get(name.split(".")[-2], 0)
    if not heads or config["model_type"] not in ("llama", "mistral"):
        return values
    split = values.reshape(heads, 2, -1, values.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
