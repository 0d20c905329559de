"""The metadata of a GGUF file -> the model's shape, by the keys that llama.cpp's converter writes.

What llama.cpp takes for granted about an architecture, and therefore no key says, is here too.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fungible.artifacts.families import FAMILIES, MISSING, Family
from fungible.artifacts.gguf_file import GGUFFile
from fungible.artifacts.model_config import ModelConfig, RopeScaling
from fungible.errors import ArtifactError

# GGUF architecture -> family. Llama, Mistral and SmolLM2 are all `llama`.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
}
# Others by the name under which `families.MISSING` says what they lack here.
_OTHERS = {
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "phimoe": "phimoe",
    "gpt-oss": "gpt_oss",
    "llama4": "llama4_text",
    "deepseek2": "deepseek_v2",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3n": "gemma3n",
    "qwen2vl": "qwen2_vl",
    "qwen3vl": "qwen3_vl",
    "qwen3next": "qwen3_next",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "rwkv6": "rwkv",
    "rwkv7": "rwkv",
    "smollm3": "smollm3",
    "phi2": "phi",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "falcon": "falcon",
    "stablelm": "stablelm",
    "t5": "t5",
}
# Keys that change the mathematics in a way that no family here has, and values that do not.
_REFUSED = {
    "expert_count": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.causal": (True,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
}
_FREQS, _SHORT = "rope_freqs.weight", "rope_factors_short.weight"
# Tensors beside the weights: `_rotary` reads the first two; the others are derived or unused.
ROTARY_TENSORS = frozenset({_FREQS, _SHORT, "rope_factors_long.weight"})
# Control tokens that end an answer, whatever the file names as its end.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
_GEMMA_27B_LAYERS = 62
_CONTROL = 3


class _Keys:
    """Metadata of one architecture, checked when it is asked for."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str, where: str) -> None:
        self.metadata = metadata
        self.where = where
        self._prefix = f"{architecture}."

    def get(self, key: str, default: object = None) -> object:
        return self.metadata.get(self._prefix + key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ArtifactError(
                f"{self.where}: metadata {self._prefix + key!r} is missing or not int"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ArtifactError(
                f"{self.where}: metadata {self._prefix + key!r} is missing or not float"
            )
        return float(value)


def find_architecture(metadata: Mapping[str, Any], where: str) -> str:
    """The architecture that the file names.

    Raises:
        ArtifactError: It cannot be built; says what is missing where that is known.
    """
    name = metadata.get("general.architecture", "unknown")
    if isinstance(name, str) and name in ARCHITECTURES:
        return name
    lacks = MISSING.get(_OTHERS.get(str(name), ""))
    why = f": it needs {lacks}" if lacks else ""
    raise ArtifactError(
        f"{where}: architecture {name!r} is not supported{why}",
        hint=f"this version builds GGUF files of architecture {', '.join(ARCHITECTURES)}",
    )


def read_config(file: GGUFFile) -> ModelConfig:
    """The model that a GGUF file describes.

    Raises:
        ArtifactError: Its architecture, or something it asks for, cannot be built; names the key.
    """
    where = str(file.path)
    architecture = find_architecture(file.metadata, where)
    keys = _Keys(file.metadata, architecture, where)
    _refuse_unknown(keys)
    name = ARCHITECTURES[architecture]
    family = FAMILIES[name]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise ArtifactError(f"{where}: metadata 'tokenizer.ggml.tokens' is missing or not list")
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    layers = keys.integer("block_count")
    head_dim = _head_dim(keys, hidden, heads)
    turning = keys.integer("rope.dimension_count", head_dim)
    scaling, context = _rotary(keys, file, family, turning)
    window, windowed = _windows(keys, family, layers)
    bos = file.metadata.get("tokenizer.ggml.bos_token_id")
    return ModelConfig(
        # transformers knows no windows in a Llama; with them it is a Mistral.
        family="mistral" if name == "llama" and window else name,
        layers=layers,
        hidden=hidden,
        intermediate=keys.integer("feed_forward_length"),
        heads=heads,
        kv_heads=keys.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab=keys.integer("vocab_size", len(tokens)),
        context=context,
        rope_theta=keys.number("rope.freq_base", 10_000.0),
        rope_scaling=scaling,
        local_rope_theta=None
        if family.local_theta is None
        else keys.number("rope.freq_base_swa", family.local_theta),
        rotary_dim=0 if turning == head_dim else turning,
        window=window,
        windowed=windowed,
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
        norm_offset=family.norm_offset,
        activation=family.activation,
        embedding_scale=math.sqrt(max(hidden, 0)) if family.scaled_embedding else 1.0,
        attention_scale=_attention_scale(keys, family, layers, head_dim),
        # Stored as float32; the shortest decimal that gives it back is what was meant.
        norm_eps=_shortest(keys.number("attention.layer_norm_rms_epsilon")),
        tied_embeddings="output.weight" not in file.tensors,
        bos_id=bos if isinstance(bos, int) else None,
        eos_ids=_ends(file.metadata, tokens),
    )


def _refuse_unknown(keys: _Keys) -> None:
    for key, harmless in _REFUSED.items():
        value = keys.get(key, harmless[0])
        if value not in harmless:
            lacks = "mixture-of-experts layers: " if key == "expert_count" else ""
            raise ArtifactError(f"{keys.where}: {lacks}{key} {value!r} is not supported")


def _head_dim(keys: _Keys, hidden: int, heads: int) -> int:
    width = keys.integer("attention.key_length", hidden // max(heads, 1))
    values = keys.integer("attention.value_length", width)
    if values != width:
        raise ArtifactError(
            f"{keys.where}: keys of width {width} with values of width {values} are not supported"
        )
    return width


def _attention_scale(keys: _Keys, family: Family, layers: int, head_dim: int) -> float | None:
    named = keys.number("attention.scale", 0.0)
    if named:
        return named
    if not family.scaled_embedding:
        return None
    # Gemma's configuration names it; GGUF leaves it to the reader, who knows the 27B's.
    if layers == _GEMMA_27B_LAYERS:
        heads = max(keys.integer("attention.head_count"), 1)
        return 1 / math.sqrt(max(keys.integer("embedding_length"), 1) / heads)
    return 1 / math.sqrt(max(head_dim, 1))


def _windows(keys: _Keys, family: Family, layers: int) -> tuple[int, tuple[bool, ...]]:
    """The window, and which layers have it; nothing for all of them."""
    window = keys.integer("attention.sliding_window", 0)
    every = 6 if family.windows == "types" else 0
    pattern = keys.get("attention.sliding_window_pattern", every)
    if not window or pattern == 0:
        return window, ()
    if isinstance(pattern, list):
        windowed = tuple(bool(one) for one in pattern)
    elif isinstance(pattern, int) and pattern > 0:
        windowed = tuple((layer + 1) % pattern != 0 for layer in range(min(layers, 1_000)))
    else:
        raise ArtifactError(f"{keys.where}: sliding_window_pattern {pattern!r} is not supported")
    return (window, windowed) if any(windowed) else (0, ())


def _rotary(
    keys: _Keys, file: GGUFFile, family: Family, turning: int
) -> tuple[RopeScaling | None, int]:
    """How frequencies are stretched, and the longest sequence."""
    context = keys.integer("context_length")
    # llama.cpp: a factor without a type is linear.
    kind = keys.get("rope.scaling.type", "linear")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 0.0)) or 1.0
    if _SHORT in file.tensors:
        original = keys.integer("rope.scaling.original_context_length", context)
        grown = context > original > 1
        default = math.sqrt(1 + math.log(context / original) / math.log(original)) if grown else 1.0
        scaling = RopeScaling(
            kind="longrope",
            factors=_factors(file, _SHORT, turning),
            amplitude=keys.number("rope.scaling.attn_factor", default),
        )
        # Only the short factors are used, which hold up to the length of pre-training.
        return _allowed(scaling, keys, family), min(context, original)
    if kind not in ("none", "linear"):
        raise ArtifactError(f"{keys.where}: rope scaling {kind!r} is not supported")
    if kind == "none":
        factor = 1.0
    if _FREQS in file.tensors:
        factors = tuple(factor * one for one in _factors(file, _FREQS, turning))
        scaling = RopeScaling(kind="longrope", factors=factors)
        return _allowed(scaling, keys, family), context
    if factor == 1.0:
        return None, context
    return _allowed(RopeScaling(kind="linear", factor=factor), keys, family), context


def _factors(file: GGUFFile, name: str, turning: int) -> tuple[float, ...]:
    if file.tensors[name].shape != (turning // 2,):
        raise ArtifactError(
            f"{file.path}: tensor {name} has shape {list(file.tensors[name].shape)}, "
            f"expected {[turning // 2]}"
        )
    return tuple(_shortest(float(value)) for value in file.read(name))


def _allowed(scaling: RopeScaling, keys: _Keys, family: Family) -> RopeScaling:
    if scaling.kind not in family.scalings:
        raise ArtifactError(
            f"{keys.where}: rope scaling {scaling.kind!r} is not supported",
            hint=f"this architecture is built with: {', '.join(family.scalings)}",
        )
    return scaling


def _ends(metadata: Mapping[str, Any], tokens: list[Any]) -> tuple[int, ...]:
    """Ids of the tokens that end an answer."""
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    kinds = metadata.get("tokenizer.ggml.token_type")
    kinds = kinds if isinstance(kinds, list) else []
    turns = [
        at
        for at, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind == _CONTROL and token in _TURN_ENDS
    ]
    found = [token for token in named if isinstance(token, int)]
    return tuple(sorted({*found, *turns}))


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))
