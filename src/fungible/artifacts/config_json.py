"""`config.json` beside the weights, as Hugging Face transformers reads it."""

from typing import Any

from fungible.artifacts.model_config import ModelConfig

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def llama_config_json(config: ModelConfig) -> dict[str, Any]:
    """`config.json` for the decoder `config`, in the layout of transformers 5.

    Phi-3 is written as Mistral: with its fused matrices split it is one, except that a Phi-3
    whose heads turn in part only has no counterpart that transformers could load.
    """
    # Without fused matrices there is no difference left.
    family = "mistral" if config.family == "phi3" and not config.rotary_dim else config.family
    written: dict[str, Any] = {
        "architectures": [_CLASSES.get(family, "Phi3ForCausalLM")],
        "model_type": family,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids),
        "torch_dtype": "float32",
    }
    if config.activation == "silu":
        written |= {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    else:
        written["hidden_activation"] = "gelu_pytorch_tanh"
    if config.attention_scale is not None:
        scalar = config.attention_scale**-2
        whole = round(scalar)
        written["query_pre_attn_scalar"] = whole if abs(scalar - whole) < 1e-6 else scalar
    return written | _rotary(config) | _windows(config)


def _rotary(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    wide: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        wide["rope_type"] = scaling.kind
        if scaling.kind == "longrope":
            factors = list(scaling.factors)
            wide |= {"short_factor": factors, "long_factor": factors}
            wide |= {
                "attention_factor": scaling.amplitude,
                "original_max_position_embeddings": config.context,
            }
        else:
            wide["factor"] = scaling.factor
        if scaling.kind == "llama3":
            wide |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
    if config.rotary_dim:
        wide["partial_rotary_factor"] = config.rotary_dim / config.head_dim
    if config.local_rope_theta is None:
        # transformers 4 reads the plain field.
        return {"rope_theta": config.rope_theta, "rope_parameters": wide}
    local = {"rope_type": "default", "rope_theta": config.local_rope_theta}
    return {"rope_parameters": {"full_attention": wide, "sliding_attention": local}}


def _windows(config: ModelConfig) -> dict[str, Any]:
    if config.family == "llama":
        return {}
    if not config.window:
        return {"sliding_window": None}
    written: dict[str, Any] = {"sliding_window": config.window}
    if config.family.startswith("qwen"):
        written["use_sliding_window"] = True
    if config.windowed:
        names = {True: "sliding_attention", False: "full_attention"}
        written["layer_types"] = [names[has] for has in config.windowed]
    return written
