"""Write a tiny random BERT with what transformers says of it.

    python tools/make_encoder_oracle.py tests/fixtures/encoder

Needs torch, transformers and safetensors, which the project itself does not: run it in an
environment of its own. Weights are random from a fixed seed; nothing is downloaded.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

WORDS = """
    [PAD] [UNK] [CLS] [SEP] [MASK] the a of sea harbour boat ##s ##ing count ##ed is was cold
    water hold less life . , ? ! - 1 2 3 + = cafe naive x ##y ##z und ##er ##ground
""".split()  # noqa: SIM905  # reads as the text it is
TEXTS = [
    "The harbour was cold.",
    "x",
    "Naïve café, counting boats: 1 + 2 = 3? The sea holds less life; underground waters!",
    "boats boats boats boats",
]
SHAPE = {
    "vocab_size": len(WORDS) + 5,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "type_vocab_size": 2,
}
MODULES = ("Transformer", "Pooling", "Normalize")


def main(folder: Path) -> None:
    """Write the checkpoint and `expected.safetensors`."""
    torch.manual_seed(7)
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    model = transformers.BertModel(transformers.BertConfig(**SHAPE)).eval()
    for parameter in model.parameters():
        # Larger than the usual start, so that every part moves the result.
        parameter.data.add_(0.25 * torch.randn_like(parameter))
    stored = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = {**SHAPE, "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    write(folder / "config.json", config)
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(
            zip(MODULES, ("", "1_Pooling", "2_Normalize"), strict=True)
        )
    ]
    write(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    write(folder / "1_Pooling" / "config.json", pooling | {"pooling_mode_cls_token": False})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    write(folder / "tokenizer_config.json", {"do_lower_case": True})
    texts = {"texts": json.dumps(TEXTS)}
    save_file(expected(model), folder / "expected.safetensors", texts)


def expected(model: transformers.BertModel) -> dict[str, torch.Tensor]:
    """Tokens of the texts, and their embeddings by pooling and activation."""
    vocab = {word: at for at, word in enumerate(WORDS)}
    tokenizer = transformers.BertTokenizer(vocab=vocab, do_lower_case=True)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None].float()
    found = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    for name in ("gelu", "gelu_new", "relu"):
        for layer in model.encoder.layer:
            layer.intermediate.intermediate_act_fn = transformers.activations.ACT2FN[name]
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        found[f"{name}.mean"] = torch.nn.functional.normalize(mean, dim=-1)
        found[f"{name}.cls"] = states[:, 0].contiguous()
    return found


def write(path: Path, value: object) -> None:
    """JSON for people."""
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
