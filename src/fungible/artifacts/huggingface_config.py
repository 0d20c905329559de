"""`config.json` of Hugging Face transformers, in its layouts before and since version 5."""

import math
from typing import Any

import msgspec

from fungible.artifacts.families import Family, find_family
from fungible.artifacts.model_config import ModelConfig, RopeScaling
from fungible.errors import ArtifactError


class _Fields(msgspec.Struct):
    """The fields that we read; everything else is ignored."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool | None = None
    rope_theta: float | None = None
    rope_local_base_freq: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    original_max_position_embeddings: int | None = None
    partial_rotary_factor: float | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool = False
    max_window_layers: int | None = None
    sliding_window_pattern: int | None = None
    layer_types: list[str] | None = None
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class _ScalingFields(msgspec.Struct):
    """The fields of `rope_scaling` or `rope_parameters` that we read."""

    factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int | None = None
    short_factor: list[float] = []
    attention_factor: float | None = None


def read_config(raw: dict[str, Any], where: str) -> ModelConfig:
    """The model that a decoded `config.json` describes.

    Raises:
        ArtifactError: Its family, or something it asks for, cannot be built; names the field.
    """
    family = find_family(raw.get("model_type"), where)
    try:
        found = msgspec.convert(raw, _Fields)
        _refuse_unknown(found, family, where)
        theta, local_theta, scaling, context = _rotary(found, family, where)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{where}: {error}") from error
    heads = found.num_attention_heads
    head_dim = found.head_dim or found.hidden_size // max(heads, 1)
    turning = int(head_dim * _partial(found))
    eos = found.eos_token_id
    window, windowed = _windows(found, family, where)
    scalar = found.query_pre_attn_scalar
    tied = found.tie_word_embeddings
    return ModelConfig(
        family=found.model_type,
        layers=found.num_hidden_layers,
        hidden=found.hidden_size,
        intermediate=found.intermediate_size,
        heads=heads,
        kv_heads=found.num_key_value_heads or heads,
        head_dim=head_dim,
        vocab=found.vocab_size,
        context=context,
        rope_theta=theta,
        rope_scaling=scaling,
        local_rope_theta=local_theta,
        rotary_dim=0 if turning == head_dim else turning,
        window=window,
        windowed=windowed,
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
        norm_offset=family.norm_offset,
        activation=family.activation,
        embedding_scale=math.sqrt(max(found.hidden_size, 0)) if family.scaled_embedding else 1.0,
        attention_scale=scalar**-0.5 if scalar and scalar > 0 else None,
        norm_eps=found.rms_norm_eps,
        tied_embeddings=family.tied if tied is None else tied,
        bos_id=found.bos_token_id,
        eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
    )


def _refuse_unknown(found: _Fields, family: Family, where: str) -> None:
    activations = {"silu": ("silu",), "gelu_tanh": ("gelu_pytorch_tanh",)}[family.activation]
    name = "hidden_act" if family.activation == "silu" else "hidden_activation"
    activation = getattr(found, name) or activations[0]
    for field, value, wanted in (
        (name, activation, activations),
        ("attention_bias", found.attention_bias, (False,)),
        ("mlp_bias", found.mlp_bias, (False,)),
        ("attn_logit_softcapping", found.attn_logit_softcapping, (None,)),
        ("final_logit_softcapping", found.final_logit_softcapping, (None,)),
        ("use_bidirectional_attention", found.use_bidirectional_attention, (None, False)),
    ):
        if value not in wanted:
            raise ArtifactError(f"{where}: {field} {value!r} is not supported")


def _partial(found: _Fields) -> float:
    """The part of each head that turns."""
    named = (found.rope_parameters or {}).get("partial_rotary_factor")
    part = named if isinstance(named, int | float) else found.partial_rotary_factor
    return float(part) if part and 0 < part <= 1 else 1.0


def _windows(found: _Fields, family: Family, where: str) -> tuple[int, tuple[bool, ...]]:
    """The window, and which layers have it; nothing for all of them."""
    on = found.sliding_window and (family.windows != "switch" or found.use_sliding_window)
    if family.windows == "none" or not on:
        return 0, ()
    window, layers = found.sliding_window or 0, range(max(found.num_hidden_layers, 0))
    if family.windows == "all":
        return window, ()
    types = found.layer_types
    if types is not None:
        odd = sorted(set(types) - {"sliding_attention", "full_attention"})
        if odd:
            raise ArtifactError(f"{where}: layer_types {odd[0]!r} is not supported")
        windowed = tuple(kind == "sliding_attention" for kind in types)
    elif family.windows == "switch":
        # transformers' own default is 28 for both Qwen families.
        first = 28 if found.max_window_layers is None else found.max_window_layers
        windowed = tuple(layer >= first for layer in layers)
    else:
        pattern = found.sliding_window_pattern or 6
        windowed = tuple((layer + 1) % pattern != 0 for layer in layers)
    return (window, windowed) if any(windowed) else (0, ())


def _rotary(
    found: _Fields, family: Family, where: str
) -> tuple[float, float | None, RopeScaling | None, int]:
    """Base, base of windowed layers, scaling, and the longest sequence."""
    rope = found.rope_parameters or {}
    local = rope.get("sliding_attention") or {}
    wide: dict[str, Any] = rope.get("full_attention") or rope
    theta = msgspec.convert(wide.get("rope_theta") or found.rope_theta or family.theta, float)
    local_theta = None
    if family.local_theta is not None:
        named = local.get("rope_theta") or found.rope_local_base_freq or family.local_theta
        local_theta = msgspec.convert(named, float)
        if _kind(local) != "default":
            raise ArtifactError(f"{where}: rope scaling of windowed layers is not supported")
    scaling = wide | (found.rope_scaling or {})
    context = found.max_position_embeddings
    kind = _kind(scaling)
    if kind == "default":
        return theta, local_theta, None, context
    if kind not in family.scalings:
        raise ArtifactError(
            f"{where}: rope scaling {kind!r} is not supported",
            hint=f"architecture {found.model_type} is built with: {', '.join(family.scalings)}",
        )
    fields = msgspec.convert(scaling, _ScalingFields)
    original = fields.original_max_position_embeddings or found.original_max_position_embeddings
    if kind == "longrope":
        # Short factors, and so the length of pre-training: the long ones need a second set of
        # keys once a text grows beyond it.
        original = original or context
        scaled = _longrope(fields, context / max(original, 1), original)
        return theta, local_theta, scaled, min(context, original)
    if kind == "linear":
        return theta, local_theta, RopeScaling(kind="linear", factor=fields.factor or 0), context
    return (
        theta,
        local_theta,
        RopeScaling(
            kind="llama3",
            factor=fields.factor or 0,
            low_freq_factor=fields.low_freq_factor,
            high_freq_factor=fields.high_freq_factor,
            original_context=original or 0,
        ),
        context,
    )


def _kind(scaling: dict[str, Any]) -> str:
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    return "longrope" if kind == "su" else kind


def _longrope(fields: _ScalingFields, ratio: float, original: int) -> RopeScaling:
    factor = ratio if fields.factor is None else fields.factor
    grown = factor > 1 and original > 1
    default = math.sqrt(1 + math.log(factor) / math.log(original)) if grown else 1.0
    given = fields.attention_factor
    return RopeScaling(
        kind="longrope",
        factors=tuple(fields.short_factor),
        amplitude=default if given is None else given,
    )
