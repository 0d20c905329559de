"""A Hugging Face model directory as a checkpoint: `config.json`, safetensors, `tokenizer.json`."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.checkpoint import (
    Blocks4,
    check_config,
    expected_tensors,
)
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.tensors import TensorFile
from fungible.artifacts.tokenizer_export import check_tokenizer
from fungible.errors import ArtifactError

_FLOATS = ("F32", "F16", "BF16")


class HuggingFaceCheckpoint:
    """A directory as `save_pretrained` writes it, `LlamaForCausalLM` only.

    Raises:
        ArtifactError: A file or tensor is missing or malformed, or the model is of another
            architecture.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = _read_config(directory / "config.json")
        check_config(self.config, str(directory / "config.json"))
        self._shapes = expected_tensors(self.config)
        weights = _weight_files(directory)
        self._where = {name: file for file in weights for name in file.regions}
        self._check_tensors()
        self.name = directory.resolve().name.lower()
        self.licence = _licence(directory)
        tokenizer = directory / "tokenizer.json"
        self.tokenizer_json = _read_bytes(tokenizer)
        check_tokenizer(self.tokenizer_json, str(tokenizer))
        self.chat_template, template = _chat_template(directory)
        named = [directory / "config.json", tokenizer, *(file.path for file in weights)]
        self.files = sorted({*named, *template})

    def _check_tensors(self) -> None:
        for name, shape in self._shapes.items():
            if name not in self._where:
                raise ArtifactError(f"{self.directory}: tensor {name} is missing")
            file = self._where[name]
            spec = file.regions[name].spec
            if spec.shape != shape or spec.dtype not in _FLOATS:
                raise ArtifactError(
                    f"{file.path}: tensor {name} is {spec.dtype} {list(spec.shape)}, "
                    f"expected a float {list(shape)}"
                )
        # Rotary frequencies are derived from the configuration; a tied head may be stored twice.
        ignored = {"lm_head.weight"} if self.config.tied_embeddings else set()
        for name in sorted(set(self._where) - set(self._shapes) - ignored):
            if not name.endswith("rotary_emb.inv_freq"):
                raise ArtifactError(
                    f"{self._where[name].path}: tensor {name} is not part of a plain llama model",
                    hint="biases, adapters and experts are not supported by this version",
                )

    def read(self, tensor: str) -> NDArray[np.float32]:
        """See `Checkpoint.read`."""
        file = self._where[tensor]
        values = file.read(tensor).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ArtifactError(f"{file.path}: tensor {tensor} is not finite")
        return values

    def blocks4(self, tensor: str) -> Blocks4 | None:
        """See `Checkpoint.blocks4`: these weights are floats."""
        del tensor
        return None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(_read_bytes(path), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: {error}") from error


class _LlamaConfig(msgspec.Struct):
    """The fields of `config.json` that we read; everything else is ignored."""

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
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


def _read_config(path: Path) -> ModelConfig:
    raw = _read_json(path)
    if raw.get("model_type") != "llama":
        raise ArtifactError(
            f"{path}: architecture {raw.get('model_type')!r} is not supported",
            hint="this version builds models of architecture llama",
        )
    try:
        found = msgspec.convert(raw, _LlamaConfig)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{path}: {error}") from error
    rope = found.rope_parameters or {}
    scaling = found.rope_scaling or rope
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    for field, value, wanted in (
        ("rope scaling", kind, "default"),
        ("hidden_act", found.hidden_act, "silu"),
        ("attention_bias", found.attention_bias, False),
        ("mlp_bias", found.mlp_bias, False),
    ):
        if value != wanted:
            raise ArtifactError(f"{path}: {field} {value!r} is not supported")
    eos = found.eos_token_id
    heads = found.num_attention_heads
    return ModelConfig(
        layers=found.num_hidden_layers,
        hidden=found.hidden_size,
        intermediate=found.intermediate_size,
        heads=heads,
        kv_heads=found.num_key_value_heads or heads,
        head_dim=found.head_dim or found.hidden_size // max(heads, 1),
        vocab=found.vocab_size,
        context=found.max_position_embeddings,
        rope_theta=float(found.rope_theta or rope.get("rope_theta", 10000.0)),
        norm_eps=found.rms_norm_eps,
        tied_embeddings=found.tie_word_embeddings,
        bos_id=found.bos_token_id,
        eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
    )


def _weight_files(directory: Path) -> list[TensorFile]:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        path = directory / "model.safetensors"
        if not path.exists():
            raise ArtifactError(
                f"{path}: no such file",
                hint="weights must be safetensors; convert other formats with transformers",
            )
        return [TensorFile(path)]
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise ArtifactError(f"{index}: weight_map is missing")
    return [TensorFile(directory / Path(name).name) for name in sorted(set(shards.values()))]


def _chat_template(directory: Path) -> tuple[str, list[Path]]:
    """The template and the file that holds it, if any does."""
    path = directory / "chat_template.jinja"
    if path.exists():
        return _read_bytes(path).decode("utf-8", errors="strict"), [path]
    path = directory / "tokenizer_config.json"
    if path.exists():
        template = _read_json(path).get("chat_template")
        if isinstance(template, str):
            return template, [path]
    return "", []


def _licence(directory: Path) -> str:
    """The `license:` of the model card's front matter, or `unknown`."""
    card = directory / "README.md"
    if card.exists():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.removeprefix("license:").strip()
    return "unknown"
