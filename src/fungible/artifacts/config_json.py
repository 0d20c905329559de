"""`config.json` beside the weights, as Hugging Face transformers reads it."""

from typing import Any

from fungible.artifacts.model_config import ModelConfig


def llama_config_json(config: ModelConfig) -> dict[str, Any]:
    """`config.json` as Hugging Face transformers reads it for `LlamaForCausalLM`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": config.family,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids),
        "torch_dtype": "float32",
    }
