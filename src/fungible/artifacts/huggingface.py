"""A Hugging Face model directory as a checkpoint: `config.json`, safetensors, `tokenizer.json`."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.checkpoint import (
    GATE_UP,
    QKV,
    Blocks4,
    check_config,
    expected_tensors,
)
from fungible.artifacts.families import FAMILIES
from fungible.artifacts.hub import model_name
from fungible.artifacts.huggingface_config import read_config
from fungible.artifacts.tensors import TensorFile
from fungible.artifacts.tokenizer_export import check_tokenizer
from fungible.errors import ArtifactError

_FLOATS = ("F32", "F16", "BF16")


class HuggingFaceCheckpoint:
    """A directory as `save_pretrained` writes it, of one of `FAMILIES`.

    Raises:
        ArtifactError: A file or tensor is missing or malformed, or the model is of another
            architecture.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        where = str(directory / "config.json")
        self.config = read_config(_read_json(directory / "config.json"), where)
        check_config(self.config, where)
        fused = FAMILIES[self.config.family].fused
        self._shapes, self._parts = _stored_tensors(expected_tensors(self.config), fused=fused)
        weights = _weight_files(directory)
        self._where = {name: file for file in weights for name in file.regions}
        self._check_tensors()
        self.name = model_name(directory)
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
                    f"{self._where[name].path}: tensor {name} is not part of a plain "
                    f"{self.config.family} model",
                    hint="other biases, adapters and experts are not supported by this version",
                )

    def read(self, tensor: str) -> NDArray[np.float32]:
        """See `Checkpoint.read`."""
        stored, rows = self._parts.get(tensor, (tensor, slice(None)))
        file = self._where[stored]
        values = file.read(stored)[rows].astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ArtifactError(f"{file.path}: tensor {tensor} is not finite")
        return values

    def blocks4(self, tensor: str) -> Blocks4 | None:
        """See `Checkpoint.blocks4`: these weights are floats."""
        del tensor
        return None


Shape = tuple[int, ...]


def _stored_tensors(
    shapes: dict[str, Shape], *, fused: bool
) -> tuple[dict[str, Shape], dict[str, tuple[str, slice]]]:
    """What the files hold, and of which rows of it the model's own tensors are, where not whole.

    Fused matrices hold q, k, v and gate, up below each other.
    """
    stored: dict[str, Shape] = {}
    parts: dict[str, tuple[str, slice]] = {}
    names = dict.fromkeys(QKV, "self_attn.qkv_proj") | dict.fromkeys(GATE_UP, "mlp.gate_up_proj")
    for name, shape in shapes.items():
        part = name.removesuffix(".weight").split(".", 3)[-1]
        if not fused or part not in names:
            stored[name] = shape
            continue
        whole = name.replace(part, names[part])
        above = stored.get(whole, (0,))[0]
        stored[whole] = (above + shape[0], *shape[1:])
        parts[name] = (whole, slice(above, above + shape[0]))
    return stored, parts


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
