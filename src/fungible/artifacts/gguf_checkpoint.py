"""A GGUF file as a checkpoint: llama.cpp's names and row order -> Hugging Face's."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from fungible.artifacts.checkpoint import (
    EMBEDDING,
    FINAL_NORM,
    LM_HEAD,
    Blocks4,
    check_config,
    expected_tensors,
    layer_tensor,
)
from fungible.artifacts.gguf_file import GGUFFile
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.tokenizer_export import tokenizer_from_gguf
from fungible.errors import ArtifactError

_PARTS = {
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
_QUANT_SUFFIX = re.compile(r"[.-](f32|f16|bf16|i?q\d\w*)$", re.IGNORECASE)


class GGUFCheckpoint:
    """A checkpoint in one GGUF file, architecture `llama`, byte-level BPE tokenizer.

    Raises:
        ArtifactError: The file is damaged, of another architecture, or lacks a tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = [path]
        self._file = GGUFFile(path)
        self._keys = self._file.metadata
        self.config = self._read_config()
        check_config(self.config, str(path))
        self._shapes = expected_tensors(self.config)
        self._names = _gguf_names(self.config)
        self._check_tensors()
        self.name = _QUANT_SUFFIX.sub("", path.stem).lower()
        self.licence = str(self._keys.get("general.license", "unknown"))
        self.tokenizer_json = tokenizer_from_gguf(self._keys, str(path), self.config.vocab)
        self.chat_template = str(self._keys.get("tokenizer.chat_template", ""))

    def _key(self, key: str, kind: type, default: Any = None) -> Any:  # noqa: ANN401
        value = self._keys.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ArtifactError(f"{self.path}: metadata {key!r} is missing or not {kind.__name__}")
        return value

    def _read_config(self) -> ModelConfig:
        architecture = self._keys.get("general.architecture", "unknown")
        if architecture != "llama":
            raise ArtifactError(
                f"{self.path}: architecture {architecture!r} is not supported",
                hint="this version builds models of architecture llama",
            )
        scaling = self._keys.get("llama.rope.scaling.type", "none")
        if scaling != "none":
            raise ArtifactError(f"{self.path}: rope scaling {scaling!r} is not supported")
        hidden = self._key("llama.embedding_length", int)
        heads = self._key("llama.attention.head_count", int)
        tokens = self._key("tokenizer.ggml.tokens", list)
        bos = self._keys.get("tokenizer.ggml.bos_token_id")
        eos = {self._keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")}
        return ModelConfig(
            layers=self._key("llama.block_count", int),
            hidden=hidden,
            intermediate=self._key("llama.feed_forward_length", int),
            heads=heads,
            kv_heads=self._key("llama.attention.head_count_kv", int, heads),
            head_dim=self._key("llama.rope.dimension_count", int, hidden // max(heads, 1)),
            vocab=self._key("llama.vocab_size", int, len(tokens)),
            context=self._key("llama.context_length", int),
            rope_theta=float(self._key("llama.rope.freq_base", float, 10000.0)),
            # Stored as float32; the shortest decimal that gives it back is what was meant.
            norm_eps=_shortest(self._key("llama.attention.layer_norm_rms_epsilon", float)),
            tied_embeddings="output.weight" not in self._file.tensors,
            bos_id=bos if isinstance(bos, int) else None,
            eos_ids=tuple(sorted(token for token in eos if isinstance(token, int))),
        )

    def _check_tensors(self) -> None:
        for name, stored in self._names.items():
            if stored not in self._file.tensors:
                raise ArtifactError(f"{self.path}: tensor {stored} is missing")
            shape = self._file.tensors[stored].shape
            if shape != self._shapes[name]:
                raise ArtifactError(
                    f"{self.path}: tensor {stored} has shape {list(shape)}, "
                    f"expected {list(self._shapes[name])}"
                )
        extra = sorted(set(self._file.tensors) - set(self._names.values()))
        if extra:
            raise ArtifactError(
                f"{self.path}: tensor {extra[0]} is not part of a plain llama model",
                hint="biases, rope factors and experts are not supported by this version",
            )

    def _heads_of(self, tensor: str) -> int:
        if tensor.endswith("q_proj.weight"):
            return self.config.heads
        return self.config.kv_heads if tensor.endswith("k_proj.weight") else 0

    def read(self, tensor: str) -> NDArray[np.float32]:
        """See `Checkpoint.read`."""
        values = self._file.read(self._names[tensor])
        if not np.isfinite(values).all():
            raise ArtifactError(f"{self.path}: tensor {self._names[tensor]} is not finite")
        heads = self._heads_of(tensor)
        return values[_half_split_rows(len(values), heads)] if heads else values

    def blocks4(self, tensor: str) -> Blocks4 | None:
        """See `Checkpoint.blocks4`; Q4_1 and Q4_0 are such blocks."""
        stored = self._names[tensor]
        kind = self._file.tensors[stored].kind
        if kind not in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1):
            return None
        blocks = _unpack_blocks(self._file.raw(stored), kind)
        heads = self._heads_of(tensor)
        if not heads:
            return blocks
        rows = _half_split_rows(len(blocks.q), heads)
        return Blocks4(blocks.q[rows], blocks.scale[rows], blocks.shift[rows])


def _gguf_names(config: ModelConfig) -> dict[str, str]:
    """Hugging Face tensor name -> GGUF tensor name."""
    names = {EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight"}
    if not config.tied_embeddings:
        names[LM_HEAD] = "output.weight"
    for layer in range(config.layers):
        for part, stored in _PARTS.items():
            names[layer_tensor(layer, part)] = f"blk.{layer}.{stored}.weight"
    return names


def _half_split_rows(rows: int, heads: int) -> NDArray[np.int64]:
    """Row order that undoes llama.cpp's permutation of query and key weights.

    llama.cpp interleaves the two halves of each head so that rotary pairs are neighbours
    (`convert_hf_to_gguf.py`, `LlamaModel.permute`); Hugging Face keeps halves apart.
    """
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(rows)


def _unpack_blocks(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> Blocks4:
    """Blocks of 32 4-bit values as ggml packs them: half-precision scale, minimum, 16 bytes.

    Byte i holds element i in its low and element i + 16 in its high four bits.
    """
    with_minimum = kind == GGMLQuantizationType.Q4_1
    head = 4 if with_minimum else 2
    blocks = raw.reshape(len(raw), -1, head + 16)
    halves = np.ascontiguousarray(blocks[:, :, :head]).view("<f2").astype(np.float32)
    packed = blocks[:, :, head:]
    q = np.concatenate([packed & 0x0F, packed >> 4], axis=-1).reshape(len(raw), -1)
    scale = halves[:, :, 0]
    # Q4_1 is d·q + m = d·(q − 8) + (8·d + m); Q4_0 is d·(q − 8).
    shift = 8 * scale + halves[:, :, 1] if with_minimum else np.zeros_like(scale)
    return Blocks4(q, scale, shift)


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32."""
    return float(str(np.float32(value)))
