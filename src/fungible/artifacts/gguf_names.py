"""Where a GGUF file keeps each tensor of a model: llama.cpp's names, and fused matrices."""

import msgspec
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map

from fungible.artifacts.checkpoint import GATE_UP, QKV, expected_tensors
from fungible.artifacts.families import FAMILIES
from fungible.artifacts.model_config import ModelConfig

_FUSED = dict.fromkeys(QKV, "self_attn.qkv_proj") | dict.fromkeys(GATE_UP, "mlp.gate_up_proj")
_ARCHITECTURES = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}


class Stored(msgspec.Struct, frozen=True):
    """A tensor of the model inside a file: rows `first` to before `last` of tensor `name`."""

    name: str
    first: int
    last: int


def stored_tensors(
    config: ModelConfig, architecture: str
) -> tuple[dict[str, Stored], dict[str, tuple[int, ...]]]:
    """Where each of `expected_tensors` is, and the shape of every tensor that the file must hold.

    Fused matrices hold q, k, v (`attn_qkv`) and gate, up (`ffn_up`) below each other.

    Args:
        config: The model; `family` says whether it is stored fused.
        architecture: Its name in GGUF; one of those that `gguf_config.read_config` takes.
    """
    names = get_tensor_name_map(_ARCHITECTURES[architecture], config.layers)
    fused = FAMILIES[config.family].fused
    parts: dict[str, Stored] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_tensors(config).items():
        part = name.split(".", 3)[-1].removesuffix(".weight")
        whole = name.replace(part, _FUSED[part]) if fused and part in _FUSED else name
        stored = names.get_name(whole, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise AssertionError(f"gguf has no name for {whole} of {architecture}")
        first = 0 if whole == name else shapes.get(stored, (0,))[0]
        parts[name] = Stored(stored, first, first + shape[0])
        shapes[stored] = (first + shape[0], *shape[1:])
    return parts, shapes
