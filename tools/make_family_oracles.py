"""Write a tiny random checkpoint of each model family with what transformers says of it.

    python tools/make_family_oracles.py tests/fixtures/families      # write the fixtures
    python tools/make_family_oracles.py --check DIR PROMPT.safetensors   # logits of a checkpoint

Needs torch, transformers, tokenizers and safetensors, which the project itself does not: run it
in an environment of its own. Weights are random from a fixed seed; nothing is downloaded.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, PreTrainedConfig

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
WINDOWED = ["sliding_attention", "full_attention"]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "original_max_position_embeddings": 64,
}
QWEN = {"head_dim": 16, "use_sliding_window": True, "sliding_window": 8, "layer_types": WINDOWED}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"head_dim": 16, "rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", {"head_dim": 16, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", {k: v for k, v in QWEN.items() if k != "head_dim"}),
    "qwen3": ("Qwen3Config", QWEN | {"tie_word_embeddings": True}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": WINDOWED,
            "query_pre_attn_scalar": 24,
            "rope_parameters": GEMMA_ROPE,
        },
    ),
    "phi3": ("Phi3Config", {"sliding_window": 8}),
    "phi4": (
        "Phi3Config",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
    ),
}
PROMPT, GREEDY = 24, 12


def fill(model: torch.nn.Module, seed: int) -> None:
    """Random weights that 16-bit floats hold, spread so that logits differ by a few units."""
    generator = torch.Generator().manual_seed(seed)
    offset = 0.0 if model.config.model_type == "gemma3_text" else 1.0
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            noise = offset + 0.2 * noise
        elif weight.dim() == 1:
            noise = 0.5 * noise
        elif "embed" in name:
            noise = 0.3 * noise
        else:
            noise = 1.5 * noise / weight.shape[1] ** 0.5
        weight.data = noise.half().float()
    model.tie_weights()


def answers(model: torch.nn.Module, prompt: torch.Tensor) -> dict[str, torch.Tensor]:
    """The logits after each token, and the tokens that greedy choice appends."""
    with torch.no_grad():
        logits = model(prompt[None]).logits[0]
        tokens = prompt
        for _ in range(GREEDY):
            following = model(tokens[None]).logits[0, -1].argmax()
            tokens = torch.cat([tokens, following[None]])
    greedy = tokens[len(prompt) :]
    return {"prompt": prompt, "logits": logits.contiguous(), "greedy": greedy.contiguous()}


def write_family(directory: Path, name: str, seed: int) -> None:
    """One checkpoint with its answers."""
    kind, own = FAMILIES[name]
    config: PreTrainedConfig = getattr(transformers, kind)(
        **SHAPE | {"tie_word_embeddings": False} | own
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    fill(model, seed)
    directory.mkdir(parents=True, exist_ok=True)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float16
    config.save_pretrained(directory)
    tied = config.tie_word_embeddings
    weights = {
        key: value.half().contiguous()
        for key, value in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(directory / "tokenizer.json"))
    generator = torch.Generator().manual_seed(seed + 1)
    prompt = torch.randint(2, SHAPE["vocab_size"], (PROMPT,), generator=generator)
    save_file(answers(model, prompt), directory / "oracle.safetensors")


def check(directory: Path, oracle: Path) -> float:
    """The largest difference of a checkpoint's logits from the oracle's."""
    expected = load_file(oracle)
    model = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    ).eval()
    found = answers(model, expected["prompt"])["logits"]
    return float((found - expected["logits"]).abs().max())


def main() -> None:
    """See the module's text."""
    if sys.argv[1] == "--check":
        print(check(Path(sys.argv[2]), Path(sys.argv[3])))
        return
    for seed, name in enumerate(FAMILIES):
        write_family(Path(sys.argv[1]) / name, name, seed)
        print(name)


if __name__ == "__main__":
    main()
