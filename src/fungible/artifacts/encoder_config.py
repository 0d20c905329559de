"""What an embedding model's directory says of its shape, its pooling and its longest text."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fungible.artifacts.model_config import EncoderConfig, ModelConfig
from fungible.errors import ArtifactError

BERT = "bert"
# What both graphs take beside weights; a model without segments has no third in ONNX.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Added to scores that must not count; finite, so that no arithmetic on it makes a NaN.
MASKED = np.float32(-1e30)
# What torch's `normalize` and the mean of sentence-transformers keep divisors above.
SHORTEST, FEWEST = np.float32(1e-12), np.float32(1e-9)
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Above any published model; what is larger is a damaged file.
_LARGEST = {
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1 << 12,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 20,
}
# What sentence-transformers calls the layers that we build.
_TRANSFORMER, _POOLING, _NORMALIZE = "Transformer", "Pooling", "Normalize"


class _Fields(msgspec.Struct):
    """The fields of `config.json` that we read; everything else is ignored."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str | None = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False


class _Module(msgspec.Struct):
    """One entry of `modules.json`."""

    path: str
    type: str


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ArtifactError: It cannot be read or is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def read_encoder_config(directory: Path) -> tuple[ModelConfig, EncoderConfig, list[Path]]:
    """Shape and embedding settings of a model directory, and the files that say so.

    Raises:
        ArtifactError: The model is of another architecture, or asks for what is not built;
            names file and field.
    """
    path = directory / "config.json"
    raw, where = read_object(path), str(path)
    kind = raw.get("model_type")
    if kind != BERT:
        raise ArtifactError(
            f"{where}: architecture {kind!r} is not supported",
            hint=f"this version builds embedding models of architecture {BERT}",
        )
    found = _convert(raw, _Fields, where)
    _check(found, where)
    pooling, normalise, files = _modules(directory)
    longest, more = _longest(directory, found.max_position_embeddings)
    config = ModelConfig(
        family=BERT,
        layers=found.num_hidden_layers,
        hidden=found.hidden_size,
        intermediate=found.intermediate_size,
        heads=found.num_attention_heads,
        kv_heads=found.num_attention_heads,
        head_dim=found.hidden_size // found.num_attention_heads,
        vocab=found.vocab_size,
        context=longest,
        rope_theta=0.0,  # positions are a table
        norm_eps=found.layer_norm_eps,
        tied_embeddings=True,
    )
    encoder = msgspec.convert(
        {
            "pooling": pooling,
            "normalise": normalise,
            "token_types": found.type_vocab_size,
            "activation": _ACTIVATIONS[found.hidden_act],
        },
        EncoderConfig,
    )
    return config, encoder, [path, *files, *more]


def _check(found: _Fields, where: str) -> None:
    for name, largest in _LARGEST.items():
        value = getattr(found, name)
        if not 1 <= value <= largest:
            raise ArtifactError(f"{where}: {name} is {value}; it must be in [1, {largest}]")
    if found.hidden_size % found.num_attention_heads:
        raise ArtifactError(
            f"{where}: hidden_size {found.hidden_size} is not a multiple of "
            f"num_attention_heads {found.num_attention_heads}"
        )
    if not 0 < found.layer_norm_eps < 1 or not 0 <= found.type_vocab_size <= 1 << 12:
        raise ArtifactError(
            f"{where}: layer_norm_eps {found.layer_norm_eps} or type_vocab_size "
            f"{found.type_vocab_size} is out of range"
        )
    for name, value, known in (
        ("hidden_act", found.hidden_act, tuple(_ACTIVATIONS)),
        ("position_embedding_type", found.position_embedding_type, ("absolute", None)),
        ("is_decoder", found.is_decoder, (False,)),
        ("add_cross_attention", found.add_cross_attention, (False,)),
    ):
        if value not in known:
            raise ArtifactError(f"{where}: {name} {value!r} is not supported")


def _modules(directory: Path) -> tuple[str, bool, list[Path]]:
    """Pooling, whether embeddings are normalised, and the files read.

    A plain `BertModel` without `modules.json` is pooled as sentence-transformers does then: by
    the mean, without normalisation.
    """
    path = directory / "modules.json"
    if not path.exists():
        return "mean", False, []
    try:
        modules = msgspec.json.decode(path.read_bytes(), type=list[_Module])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    kinds = [module.type.rpartition(".")[2] for module in modules]
    if kinds not in ([_TRANSFORMER, _POOLING], [_TRANSFORMER, _POOLING, _NORMALIZE]):
        raise ArtifactError(
            f"{path}: modules {', '.join(kinds) or 'of no kind'} are not supported",
            hint="supported: Transformer, Pooling and, at the end, Normalize",
        )
    pooling = directory / Path(modules[1].path).name / "config.json"
    return _pooling(pooling), kinds[-1] == _NORMALIZE, [path, pooling]


def _pooling(path: Path) -> str:
    raw = read_object(path)
    named = raw.get("pooling_mode")  # since sentence-transformers 5
    modes = [named] if isinstance(named, str) else named
    if modes is None:
        on = [name for name, value in raw.items() if name.startswith("pooling_mode_") and value]
        modes = [name.removeprefix("pooling_mode_") for name in on]
    known = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in known:
        raise ArtifactError(
            f"{path}: pooling {modes!r} is not supported", hint="supported: mean, cls"
        )
    if raw.get("include_prompt") is False:
        raise ArtifactError(f"{path}: include_prompt false is not supported")
    return known[modes[0]]


def _longest(directory: Path, positions: int) -> tuple[int, list[Path]]:
    """The longest text in tokens, and the file that shortens it."""
    path = directory / "sentence_bert_config.json"
    if not path.exists():
        return positions, []
    cut = read_object(path).get("max_seq_length")
    if cut is None:
        return positions, [path]
    if not isinstance(cut, int) or cut < 1:
        raise ArtifactError(f"{path}: max_seq_length is {cut!r}; it must be a positive number")
    return min(cut, positions), [path]


def _convert(raw: dict[str, Any], kind: type[_Fields], where: str) -> _Fields:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{where}: {error}") from error
