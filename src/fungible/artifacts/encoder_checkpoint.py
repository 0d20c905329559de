"""A directory with an embedding model of the BERT class, as sentence-transformers writes it.

Devlin et al. 2018 (arXiv:1810.04805); pooling and normalisation as in Reimers and Gurevych 2019
(arXiv:1908.10084).
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.encoder_config import BERT, read_encoder_config, read_object
from fungible.artifacts.encoder_tokenizer import encoder_tokenizer
from fungible.artifacts.hub import model_name
from fungible.artifacts.model_config import EncoderConfig, ModelConfig
from fungible.artifacts.tensors import TensorFile, TensorSpec
from fungible.errors import ArtifactError

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"
_FLOATS = ("F32", "F16", "BF16")
_PREFIX = "bert."
# Heads of pre-training, and positions that are only a count: no part of an embedding.
_UNUSED = ("pooler.", "cls.", "embeddings.position_ids")
# TensorFlow's names, which old checkpoints kept.
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
QKV = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))


def encoder_tensors(config: ModelConfig, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that an artifact holds with its shape, in file order.

    Queries, keys and values of a layer are neighbours, and so are their biases: a graph can
    use them as one matrix without a copy. Linear weights are `[out, in]`.
    """
    hidden, inner = config.hidden, config.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        WORDS: (config.vocab, hidden),
        POSITIONS: (config.context, hidden),
    }
    if encoder.token_types:
        shapes[SEGMENTS] = (encoder.token_types, hidden)
    shapes |= _norm("embeddings.LayerNorm", hidden)
    for layer in range(config.layers):
        at = f"encoder.layer.{layer}"
        shapes |= {f"{at}.{part}.weight": (hidden, hidden) for part in QKV}
        shapes |= {f"{at}.{part}.bias": (hidden,) for part in QKV}
        shapes |= _linear(f"{at}.attention.output.dense", hidden, hidden)
        shapes |= _norm(f"{at}.attention.output.LayerNorm", hidden)
        shapes |= _linear(f"{at}.intermediate.dense", inner, hidden)
        shapes |= _linear(f"{at}.output.dense", hidden, inner)
        shapes |= _norm(f"{at}.output.LayerNorm", hidden)
    return shapes


def encoder_layout(config: ModelConfig, encoder: EncoderConfig) -> dict[str, TensorSpec]:
    """The safetensors file of the `f32` variant: every tensor's type and shape, in order."""
    shapes = encoder_tensors(config, encoder)
    return {name: TensorSpec("F32", shape) for name, shape in shapes.items()}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


class EncoderCheckpoint:
    """An open checkpoint; every tensor is read from disk when asked for.

    Args:
        directory: Holds `config.json`, `model.safetensors` and `tokenizer.json` or `vocab.txt`;
            `modules.json`, `1_Pooling/config.json` and `sentence_bert_config.json` are obeyed
            where they are.

    Attributes:
        config: The shape; `context` is the shorter of what the model has positions for and what
            sentence-transformers cuts texts to.
        encoder: What it does beyond a decoder's shape.
        tokenizer_json: Neither pads nor truncates.
        files: What the artifact is made of.

    Raises:
        ArtifactError: A file or tensor is missing or malformed, or the model cannot be built.
    """

    def __init__(self, directory: Path) -> None:
        self.config, self.encoder, read = read_encoder_config(directory)
        path = directory / "model.safetensors"
        if not path.exists():
            raise ArtifactError(
                f"{path}: no such file",
                hint="weights must be one safetensors file; convert others with transformers",
            )
        self._file = TensorFile(path)
        self._stored = {_plain(name): name for name in self._file.regions}
        self._shapes = encoder_tensors(self.config, self.encoder)
        self._check_tensors()
        self.name = _name(directory)
        self.licence = _licence(directory)
        self.tokenizer_json, used = encoder_tokenizer(directory, self.config.vocab)
        self.files = sorted({*read, path, *used})

    def _check_tensors(self) -> None:
        for name, shape in self._shapes.items():
            stored = self._stored.get(name)
            if stored is None:
                raise ArtifactError(f"{self._file.path}: tensor {name} is missing")
            spec = self._file.regions[stored].spec
            # The table of positions may be longer than the context.
            rows = (max(spec.shape[0], shape[0]),) if name == POSITIONS and spec.shape else shape
            wanted = (*rows, *shape[1:]) if name == POSITIONS else shape
            if spec.shape != wanted or spec.dtype not in _FLOATS:
                raise ArtifactError(
                    f"{self._file.path}: tensor {name} is {spec.dtype} {list(spec.shape)}, "
                    f"expected a float {list(shape)}"
                )
        for name in sorted(set(self._stored) - set(self._shapes)):
            if not name.startswith(_UNUSED):
                raise ArtifactError(
                    f"{self._file.path}: tensor {name} is not part of a plain {BERT} model",
                    hint="adapters, projections and cross-attention are not supported",
                )

    def read(self, tensor: str) -> NDArray[np.float32]:
        """The tensor in float32.

        Raises:
            ArtifactError: It holds something that is not a finite number.
        """
        values = self._file.read(self._stored[tensor])[: self._shapes[tensor][0]]
        if not np.isfinite(values).all():
            raise ArtifactError(f"{self._file.path}: tensor {tensor} is not finite")
        return np.ascontiguousarray(values, np.float32)


def _plain(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _name(directory: Path) -> str:
    """The directory's name; the package's, where a package keeps its model in a `model` folder."""
    name = model_name(directory)
    return directory.resolve().parent.name.lower().replace("_", "-") if name == "model" else name


def _licence(directory: Path) -> str:
    """The `license:` of the model card's front matter, or `unknown`."""
    card = directory / "README.md"
    if card.exists():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.removeprefix("license:").strip()
    return "unknown"


def encoder_config_json(config: ModelConfig, encoder: EncoderConfig) -> bytes:
    """`config.json` beside the weights, as transformers reads a `BertModel`."""
    activation = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
    written: dict[str, Any] = {
        "architectures": ["BertModel"],
        "model_type": BERT,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "type_vocab_size": encoder.token_types,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": activation[encoder.activation],
        "torch_dtype": "float32",
    }
    return msgspec.json.format(msgspec.json.encode(written), indent=2) + b"\n"


def is_encoder(directory: Path) -> bool:
    """Whether a directory's `config.json` describes an encoder, of ours or of another kind."""
    path = directory / "config.json"
    if not path.is_file():
        return False
    return read_object(path).get("model_type") in ENCODER_TYPES


# Of transformers: those of these that are not `BERT` are refused by name.
ENCODER_TYPES = (
    BERT, "albert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "gte", "jina_bert", "modernbert", "mpnet", "new", "nomic_bert", "roberta", "xlm-roberta",
)  # fmt: skip
