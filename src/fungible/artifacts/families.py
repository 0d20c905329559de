"""The model families that can be built, as traits of their configuration; and the others by name.

Traits were read from Hugging Face transformers 5.24, `models/NAME/modeling_NAME.py`, and are held
to it by `tests/unit/artifacts/test_families.py`.
"""

from typing import Literal

import msgspec

from fungible.errors import ArtifactError


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What sets one family apart from a plain Llama.

    Attributes:
        scalings: Rotary scalings that its configuration may ask for.
        windows: Which layers of a configuration that names a window have it: `all`; those of
            `layer_types`; or `switch`, as `layer_types` but only where `use_sliding_window`.
        fused: `qkv_proj` and `gate_up_proj` are stored as one matrix each.
        qkv_bias, qk_norm, post_norms, norm_offset, activation: See `ModelConfig`.
        scaled_embedding: Embeddings are multiplied by √hidden.
        theta: Rotary base where the configuration names none.
        local_theta: The same of windowed layers that have a base of their own.
        tied: Whether the head is the embedding table where the configuration is silent.
    """

    scalings: tuple[str, ...] = ("linear", "llama3", "longrope")
    windows: Literal["none", "all", "types", "switch"] = "none"
    fused: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_offset: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    scaled_embedding: bool = False
    theta: float = 10_000.0
    local_theta: float | None = None
    tied: bool = False


FAMILIES = {
    "llama": Family(),
    "mistral": Family(windows="all"),
    "qwen2": Family(qkv_bias=True, windows="switch"),
    "qwen3": Family(qk_norm=True, windows="switch"),
    "gemma3_text": Family(
        scalings=("linear",),
        windows="types",
        qk_norm=True,
        post_norms=True,
        norm_offset=True,
        activation="gelu_tanh",
        scaled_embedding=True,
        theta=1_000_000.0,
        local_theta=10_000.0,
        tied=True,
    ),
    "phi3": Family(scalings=("longrope",), windows="all", fused=True),
}

_EXPERTS = "mixture-of-experts layers"
_VISION = "a vision tower: build from its text-only checkpoint"
_LATENT = "multi-head latent attention and mixture-of-experts layers"
_LINEAR = "linear-attention or state-space layers"
_LAYER_NORM = "layer normalisation with biases and parallel or ungated feed-forward blocks"
# What each lacks here, for one clear refusal.
MISSING = {
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "phimoe": _EXPERTS,
    "gpt_oss": f"{_EXPERTS} and attention sinks",
    "llama4": f"{_EXPERTS} and a vision tower",
    "llama4_text": _EXPERTS,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "gemma": "Gemma 1's configuration",
    "gemma2": "soft capping of scores and logits",
    "gemma3": _VISION,
    "gemma3n": "per-layer embeddings and alternating updates",
    "mistral3": _VISION,
    "qwen2_vl": _VISION,
    "qwen2_5_vl": _VISION,
    "qwen3_vl": _VISION,
    "qwen3_next": _LINEAR,
    "mamba": _LINEAR,
    "mamba2": _LINEAR,
    "rwkv": _LINEAR,
    "smollm3": "layers without rotary positions",
    "phi": _LAYER_NORM,
    "gpt2": _LAYER_NORM,
    "gpt_neox": _LAYER_NORM,
    "falcon": _LAYER_NORM,
    "stablelm": _LAYER_NORM,
    "t5": "an encoder and cross-attention",
}


def find_family(name: object, where: str) -> Family:
    """The family called `name` in transformers.

    Raises:
        ArtifactError: It cannot be built; says what is missing where that is known.
    """
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    lacks = MISSING.get(str(name))
    why = f": it needs {lacks}" if lacks else ""
    raise ArtifactError(
        f"{where}: architecture {name!r} is not supported{why}",
        hint=f"this version builds models of architecture {', '.join(FAMILIES)}",
    )
