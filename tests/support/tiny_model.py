"""A Llama of 2 layers with random weights, as a Hugging Face directory and as a GGUF file.

Small enough that every variant builds in about a second. It speaks nonsense, but it tokenises,
follows the chat template and is as deterministic as the real thing.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fungible.artifacts.build import build_artifact
from fungible.artifacts.checkpoint import EMBEDDING, expected_tensors
from fungible.artifacts.config_json import llama_config_json
from fungible.artifacts.manifest import VARIANTS
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.store import ArtifactStore

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (
    ("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("Ġ", "the"), ("e", "r"), ("o", "n"),
    ("an", "d"), ("Ġ", "and"), ("in", "g"), ("r", "e"), ("Ġ", "a"), ("u", "s"), ("us", "er"),
    ("l", "l"), ("i", "s"), ("Ġ", "is"), ("s", "y"), ("a", "s"), ("o", "r"),
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = (*SPECIAL, *_ALPHABET, *("".join(pair) for pair in MERGES))
CONFIG = ModelConfig(
    layers=2,
    hidden=64,
    intermediate=160,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab=len(TOKENS),
    context=256,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tied_embeddings=True,
    bos_id=1,
    eos_ids=(2,),
)
_GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights by Hugging Face name, scaled so that logits spread over a few units."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected_tensors(CONFIG).items():
        if len(shape) == 1:
            values = 1 + 0.1 * rng.standard_normal(shape)
        elif name == EMBEDDING:
            values = 0.3 * rng.standard_normal(shape)
        else:
            values = 1.5 * rng.standard_normal(shape) / np.sqrt(shape[1])
        weights[name] = values.astype(np.float32)
    return weights


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE over all bytes, twenty merges and three special tokens."""
    vocab = {token: index for index, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    digits = pre_tokenizers.Digits(individual_digits=True)
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, levels])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def write_tiny_checkpoint(directory: Path, *, seed: int = 0) -> Path:
    """Write a Hugging Face model directory; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tiny_weights(seed), directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(llama_config_json(CONFIG)))
    (directory / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return directory


def write_tiny_gguf(
    path: Path, *, seed: int = 0, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32
) -> Path:
    """Write the same model as llama.cpp would; linear weights are stored as `kind`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("apache-2.0")
    writer.add_block_count(CONFIG.layers)
    writer.add_context_length(CONFIG.context)
    writer.add_embedding_length(CONFIG.hidden)
    writer.add_feed_forward_length(CONFIG.intermediate)
    writer.add_head_count(CONFIG.heads)
    writer.add_head_count_kv(CONFIG.kv_heads)
    writer.add_rope_dimension_count(CONFIG.head_dim)
    writer.add_rope_freq_base(CONFIG.rope_theta)
    writer.add_layer_norm_rms_eps(CONFIG.norm_eps)
    writer.add_vocab_size(CONFIG.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(list(TOKENS))
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, values in tiny_weights(seed).items():
        stored = _interleave(name, values)
        quantised = kind != gguf.GGMLQuantizationType.F32 and "proj" in name
        data = quantize(stored, kind) if quantised else stored
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight"}.get(name, "output_norm.weight")
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_GGUF_PARTS[part]}.weight"


def _interleave(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """llama.cpp's row order: rotary pairs side by side (`LlamaModel.permute`)."""
    heads = {"q_proj": CONFIG.heads, "k_proj": CONFIG.kv_heads}.get(name.split(".")[-2], 0)
    if not heads:
        return values
    split = values.reshape(heads, 2, -1, values.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))


def build_tiny_artifact(store_root: Path, *, variants: Sequence[str] = VARIANTS) -> Path:
    """Build the tiny model into the store at `store_root`; the artifact's directory."""
    with tempfile.TemporaryDirectory() as directory:
        source = write_tiny_checkpoint(Path(directory) / "tiny-llama")
        return build_artifact(str(source), ArtifactStore(store_root), variants=variants)
